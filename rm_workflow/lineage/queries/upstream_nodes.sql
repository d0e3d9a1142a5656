-- The nodes of an artifact's lineage: artifacts with their kind, raw files with their sha256 as version.
with recursive upstream(asset, version) as (
  select $asset, $version
  union
  select version_input.input_asset, version_input.input_version
  from upstream
  join version_input using (asset, version)
)

select
  asset || '@' || version as id,
  kind,
  version
from upstream
join dataset_version using (asset, version)
union
select
  'file:' || external_file.file,
  'file',
  external_file.sha256
from upstream
join external_file using (asset, version)
order by id
