-- Pairs whose prompt or one of whose replies holds a text, whatever its case; the caller names where they lie.
with hit as (
  select response_id as id
  from {responses}
  where contains(lower(text), lower($text))
),

asked as (
  select prompt_id as id
  from {prompts}
  where contains(lower(array_to_string(list_transform(messages, lambda message: message.content), chr(10))), lower($text))
),

found as (
  select
    pair_id,
    source,
    prompt_id,
    mixture,
    prompt_id in (from asked) as in_prompt,
    chosen_id in (from hit) as in_chosen,
    coalesce(rejected_id in (from hit), false) as in_rejected
  from ({pairs})
)

select
  pair_id,
  any_value(source) as source,
  any_value(prompt_id) as prompt_id,
  list(distinct mixture order by mixture) as mixtures,
  bool_or(in_prompt) as in_prompt,
  bool_or(in_chosen) as in_chosen,
  bool_or(in_rejected) as in_rejected
from found
where in_prompt or in_chosen or in_rejected
group by pair_id
order by pair_id
limit $limit
