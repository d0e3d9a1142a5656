-- What differs between two artifacts and all that they are made from: data, code, config, versions.
with recursive part(side, asset, version) as (
  from (values ('a', $asset_a, $version_a), ('b', $asset_b, $version_b))
  union
  select part.side, version_input.input_asset, version_input.input_version
  from part
  join version_input using (asset, version)
),

-- Parts of the same role are compared: assets of which a chain has several by name, the others by what they are.
named as (
  select
    part.side,
    part.asset,
    part.version,
    if(kind in ('raw', 'pairs', 'benchmark'), part.asset, kind) as role,
    code_version,
    parameters,
    packages
  from part
  join dataset_version using (asset, version)
),

fact as (
  select side, 'data' as what, role, 'asset' as field, asset as value
  from named
  where role = asset
  union all
  select side, 'data', role, 'file ' || file, coalesce('revision ' || revision || ', ', '') || 'sha256 ' || sha256
  from named
  join external_file using (asset, version)
  union all
  select side, 'data', role, stage, num_rows::varchar
  from named
  join row_count using (asset, version)
  union all
  select side, 'data', role, 'dropped by ' || rule, num_dropped::varchar
  from named
  join drop_count using (asset, version)
  union all
  select side, 'code', role, 'code_version', code_version
  from named
  union all
  select side, 'config', role, leaf.fullkey[3:], coalesce(leaf.atom::varchar, 'null')
  from named, json_tree(named.parameters) as leaf
  where leaf.type not in ('OBJECT', 'ARRAY')
  union all
  select distinct side, 'versions', role, package.key, package.value
  from named, json_each(named.packages) as package
),

paired as (
  select
    coalesce(a.what, b.what) as what,
    coalesce(a.role, b.role) as part,
    coalesce(a.field, b.field) as field,
    a.value as a,
    b.value as b
  from (from fact where side = 'a') as a
  full join (from fact where side = 'b') as b using (what, role, field)
  where a.value is distinct from b.value
)

-- A package that changed for several parts is told once.
select what, string_agg(part, ', ' order by part) as part, field, a, b
from paired
group by what, if(what = 'versions', null, part), field, a, b
order by list_position(['data', 'code', 'config', 'versions'], what), part, field
