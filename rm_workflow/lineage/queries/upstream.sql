-- Everything that one artifact was made from, back to the raw files, with the edges between them.
with recursive upstream(asset, version) as (
  select $asset, $version
  union
  select version_input.input_asset, version_input.input_version
  from upstream
  join version_input using (asset, version)
),

made_from as (
  select
    upstream.asset || '@' || upstream.version as downstream_id,
    version_input.input_asset || '@' || version_input.input_version as upstream_id
  from upstream
  join version_input using (asset, version)
  union all
  select
    upstream.asset || '@' || upstream.version,
    'file:' || external_file.file
  from upstream
  join external_file using (asset, version)
)

select upstream_id, downstream_id
from made_from
order by downstream_id, upstream_id
