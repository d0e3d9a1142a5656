-- The versions whose files are gone: their last event is their removal.
select asset, version
from run_output
where event in ('publish', 'reuse', 'removal')
group by asset, version
having arg_max(event, sequence) = 'removal'
