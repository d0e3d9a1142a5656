-- Every version of tokens with the checkpoints that were trained on it, oldest first.
select
  tokens.asset as tokens_asset,
  tokens.version as tokens_version,
  list(trained.asset || '@' || trained.version order by first_sequence) as checkpoints
from dataset_version as trained
join version_order
  on version_order.asset = trained.asset
  and version_order.version = trained.version
join version_input as used
  on used.asset = trained.asset
  and used.version = trained.version
join dataset_version as tokens
  on tokens.asset = used.input_asset
  and tokens.version = used.input_version
where trained.kind = 'checkpoint' and tokens.kind = 'tokens'
group by all
order by min(first_sequence)
