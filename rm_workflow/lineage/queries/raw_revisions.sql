-- The raw files that an artifact, for instance scores, comes from: revision on the hub and sha256, and who read them.
with recursive upstream(asset, version) as (
  select $asset, $version
  union
  select version_input.input_asset, version_input.input_version
  from upstream
  join version_input using (asset, version)
)

select
  external_file.file,
  external_file.revision,
  external_file.sha256,
  upstream.asset || '@' || upstream.version as read_by
from upstream
join external_file using (asset, version)
order by all
