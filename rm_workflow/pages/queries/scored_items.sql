-- A page of a benchmark's scored items, the lowest margin first: the worst correct reply against the best other one.
-- A reply with a score for each of its steps counts by the lowest of them.
with scored as (
  select item_id, response_id, min(score) as score
  from {scores}
  where benchmark = $benchmark and score is not null
  group by item_id, response_id
),

placed as (
  select items.item_id, items.subset, items.prompt_id, scored.score, place <= items.num_correct as is_correct
  from {items} as items
  cross join unnest(range(1, len(items.response_ids) + 1)) as places (place)
  join scored on scored.item_id = items.item_id and scored.response_id = items.response_ids[place]
),

margins as (
  select
    item_id,
    any_value(subset) as subset,
    any_value(prompt_id) as prompt_id,
    min(score) filter (where is_correct) as correct,
    max(score) filter (where not is_correct) as others,
    correct - others as margin
  from placed
  group by item_id
  order by margin nulls last, item_id
  limit $limit
  offset $offset
),

asked as (
  select prompt_id, any_value(messages) as messages
  from {prompts}
  where prompt_id in (select prompt_id from margins)
  group by prompt_id
)

select margins.*, asked.messages
from margins
left join asked using (prompt_id)
order by margin nulls last, item_id
