-- One item of a benchmark: its prompt and its replies in the order of the item, correct ones first, with their scores.
with item as (
  select *
  from {items}
  where item_id = $item
),

scored as (
  select response_id, list(score order by score) as scores
  from {scores}
  where benchmark = $benchmark and item_id = $item
  group by response_id
),

texts as (
  select response_id, any_value(text) as text
  from {responses}
  where prompt_id in (select prompt_id from item)
  group by response_id
),

asked as (
  select any_value(messages) as messages
  from {prompts}
  where prompt_id in (select prompt_id from item)
)

select item.subset, asked.messages, place <= item.num_correct as is_correct, texts.text, scored.scores
from item
cross join asked
cross join unnest(range(1, len(item.response_ids) + 1)) as places (place)
left join texts on texts.response_id = item.response_ids[place]
left join scored on scored.response_id = item.response_ids[place]
order by place
