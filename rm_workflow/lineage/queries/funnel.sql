-- The funnel of a recipe over time: each version of its mixture with what came in, was dropped and kept on the way.
with recursive mixture as (
  select
    asset,
    version,
    min(sequence) as first_sequence,
    arg_min(recorded, sequence) as since,
    arg_min(run_id, sequence) as run_id,
    bool_and(overridden) as overridden
  from run_output
  where asset = $mixture and event in ('publish', 'reuse')
  group by asset, version
),

-- Everything upstream of a version of the mixture, and the tokens that were made from it.
part(mixture_version, asset, version) as (
  select version, asset, version
  from mixture
  union
  select part.mixture_version, version_input.input_asset, version_input.input_version
  from part
  join version_input using (asset, version)
),

with_tokens as (
  from part
  union
  select mixture.version, version_input.asset, version_input.version
  from mixture
  join version_input on version_input.input_asset = mixture.asset and version_input.input_version = mixture.version
  join dataset_version
    on dataset_version.asset = version_input.asset
    and dataset_version.version = version_input.version
    and dataset_version.kind = 'tokens'
),

counted as (
  select
    asset,
    version,
    coalesce(
      any_value(num_rows) filter (where stage = 'candidates'),
      any_value(num_rows) filter (where stage in ('rows', 'pairs', 'responses', 'trajectories'))
    ) as came_in,
    any_value(num_rows) filter (where stage in ('used', 'kept')) as kept,
    any_value(num_rows) filter (where stage = 'train') as train,
    any_value(num_rows) filter (where stage = 'test') as test
  from row_count
  group by asset, version
),

dropped as (
  select asset, version, map(list(rule order by rule), list(num_dropped order by rule)) as dropped
  from drop_count
  group by asset, version
)

select
  mixture.since,
  mixture.run_id,
  mixture.version as mixture_version,
  mixture.overridden,
  with_tokens.asset,
  with_tokens.version,
  dataset_version.kind,
  counted.came_in,
  counted.kept,
  counted.kept - lag(counted.kept) over (
    partition by with_tokens.asset order by mixture.first_sequence, with_tokens.version
  ) as change,
  counted.train,
  counted.test,
  dropped.dropped
from with_tokens
join mixture on mixture.version = with_tokens.mixture_version
join dataset_version
  on dataset_version.asset = with_tokens.asset
  and dataset_version.version = with_tokens.version
join counted
  on counted.asset = with_tokens.asset
  and counted.version = with_tokens.version
left join dropped
  on dropped.asset = with_tokens.asset
  and dropped.version = with_tokens.version
where dataset_version.kind in ('raw', 'pairs', 'mixture', 'tokens')
order by
  mixture.first_sequence,
  list_position(['raw', 'pairs', 'mixture', 'tokens'], dataset_version.kind),
  with_tokens.asset,
  with_tokens.version
