-- Where the newest scores of a checkpoint's items lie, one file a benchmark, and the tokens whose test split was scored.
select
  scores.benchmark,
  scores.asset,
  scores.version,
  scores.file,
  tokens.asset as tokens_asset,
  tokens.version as tokens_version
from item_score_file as scores
join version_order using (asset, version)
join version_input as used using (asset, version)
join dataset_version as tokens
  on tokens.asset = used.input_asset
  and tokens.version = used.input_version
  and tokens.kind = 'tokens'
where scores.checkpoint_asset = $asset and scores.checkpoint_version = $version
qualify row_number() over (partition by scores.benchmark order by last_sequence desc) = 1
order by scores.benchmark
