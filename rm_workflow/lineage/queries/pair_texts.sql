-- Pairs with their texts, the most wrong first; the caller names where these lie.
-- Several sources may hold the same text under the same id.
with text as (
  select response_id, any_value(text) as text
  from responses
  where response_id in (select unnest([chosen_id, rejected_id]) from placed)
  group by response_id
),

prompt as (
  select prompt_id, any_value(messages) as messages
  from prompts
  where prompt_id in (select prompt_id from placed)
  group by prompt_id
)

select
  placed.pair_id,
  placed.source,
  placed.file,
  placed.row,
  placed.score_chosen,
  placed.score_rejected,
  placed.margin,
  prompt.messages,
  chosen.text as chosen,
  rejected.text as rejected
from placed
join prompt using (prompt_id)
join text as chosen on chosen.response_id = placed.chosen_id
join text as rejected on rejected.response_id = placed.rejected_id
order by placed.margin, placed.pair_id
