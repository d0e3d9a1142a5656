-- Rows kept ('kept') and dropped, by asset, source and rule, at each run that made or reused them; a rule without a row
-- of a source in a version has 0.
with counted as (
  select asset, version, source, coalesce(rule, 'kept') as rule, sum(num_rows)::bigint as num_rows
  from source_count
  where ($asset is null or asset = $asset) and ($source is null or source = $source)
  group by all
),

-- Each source of an asset with each rule that ever dropped a row of it there.
series as (
  select distinct asset, source, rule
  from counted
),

seen as (
  select distinct asset, version, source
  from counted
)

select
  run_output.sequence,
  run_output.recorded,
  run_output.run_id,
  run_output.event,
  seen.asset,
  seen.version,
  series.source,
  series.rule,
  coalesce(counted.num_rows, 0) as num_rows
from seen
join series using (asset, source)
left join counted using (asset, version, source, rule)
join run_output
  on run_output.asset = seen.asset
  and run_output.version = seen.version
  and run_output.event in ('publish', 'reuse')
where $rule is null or series.rule = $rule
order by run_output.sequence, seen.asset, series.source, series.rule != 'kept', series.rule
