-- Checkpoints that were trained on an artifact, directly or through others, oldest first.
with recursive downstream(asset, version) as (
  select $asset, $version
  union
  select version_input.asset, version_input.version
  from downstream
  join version_input
    on version_input.input_asset = downstream.asset
    and version_input.input_version = downstream.version
)

select asset || '@' || version as id
from downstream
join dataset_version using (asset, version)
where kind = 'checkpoint'
group by id
order by min(created), id
