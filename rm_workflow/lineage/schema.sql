-- The lineage index, split as OpenLineage splits it: static facts by data set version, per-run facts by run.
-- It holds nothing that manifests, events and artifacts do not hold. No keys and no secondary indexes: the writer
-- inserts each event once, and a scan of these tables is fast enough.

-- Which schema the file has: a file with another one is made anew.
create table indexed_with (schema_id varchar);

-- Which events the index holds already.
create table indexed_event (sequence bigint);

-- One row for each published artifact; parameters and packages are JSON objects.
create table dataset_version (
  asset varchar,
  version varchar,
  kind varchar,
  partition varchar,
  code_version varchar,
  requested varchar,
  parameters varchar,
  packages varchar,
  run_id varchar,
  created timestamptz
);

-- The artifacts that an artifact was made from.
create table version_input (
  asset varchar,
  version varchar,
  input_asset varchar,
  input_version varchar
);

-- Files from outside RMW_HOME; the revision is the commit of a hub repository, where there is one.
create table external_file (
  asset varchar,
  version varchar,
  file varchar,
  sha256 varchar,
  revision varchar
);

-- The artifact's own files, relative to its folder.
create table version_file (
  asset varchar,
  version varchar,
  file varchar,
  bytes bigint,
  sha256 varchar
);

-- One row for each event: publish, reuse, failed_check, failed_run, removal, promotion, rollback, refusal.
create table run_output (
  sequence bigint,
  run_id varchar,
  asset varchar,
  version varchar,
  event varchar,
  overridden boolean,
  recorded timestamptz,
  error varchar
);

-- The artifacts that each event of a run read.
create table run_input (
  sequence bigint,
  run_id varchar,
  asset varchar,
  input_asset varchar,
  input_version varchar
);

-- Rows of an artifact by stage: candidates, kept, train, ...
create table row_count (
  asset varchar,
  version varchar,
  stage varchar,
  num_rows bigint
);

-- Rows or pairs of an artifact that each rule dropped, 0 included.
create table drop_count (
  asset varchar,
  version varchar,
  rule varchar,
  num_dropped bigint
);

-- Counted in the tables themselves: rows kept (no rule; in a mixture by split) and dropped (by rule) of each source.
create table source_count (
  asset varchar,
  version varchar,
  source varchar,
  rule varchar,
  split varchar,
  num_rows bigint
);

-- Blocking checks, passed or not, with their figures as JSON.
create table check_result (
  sequence bigint,
  run_id varchar,
  asset varchar,
  version varchar,
  name varchar,
  passed boolean,
  description varchar,
  metadata varchar
);

-- Trained models.
create table checkpoint (
  asset varchar,
  version varchar,
  base varchar,
  objective varchar,
  num_train_pairs bigint,
  num_steps bigint,
  seconds double
);

-- Figures of single steps: loss, accuracy, ...
create table training_metric (
  asset varchar,
  version varchar,
  step bigint,
  name varchar,
  value double
);

-- Scores of a checkpoint with their intervals; the part is empty for the whole benchmark.
create table benchmark_score (
  asset varchar,
  version varchar,
  checkpoint_asset varchar,
  checkpoint_version varchar,
  benchmark varchar,
  part varchar,
  score double,
  n bigint,
  ci_low double,
  ci_high double,
  ties bigint,
  contamination varchar
);

-- Which checkpoint became main of its recipe (promotion, rollback), and which the gate refused (refusal), and why. Chosen
-- among several by a score, that score is too high for it.
create table promotion (
  sequence bigint,
  run_id varchar,
  recipe varchar,
  event varchar,
  asset varchar,
  version varchar,
  partition varchar,
  previous varchar,
  metric varchar,
  score double,
  ci_low double,
  ci_high double,
  contamination varchar,
  num_candidates bigint,
  reason varchar
);

-- Where the scores of single items lie: a Parquet file of the artifact of these scores.
create table item_score_file (
  asset varchar,
  version varchar,
  checkpoint_asset varchar,
  checkpoint_version varchar,
  benchmark varchar,
  file varchar
);

-- Assets by name.
create view dataset as
select
  asset,
  any_value(kind) as kind,
  count(*) as num_versions,
  min(created) as first_created,
  max(created) as last_created
from dataset_version
group by asset;

-- By sequence and never by time, which may jump: when a version was first and last published or reused.
create view version_order as
select
  asset,
  version,
  min(sequence) as first_sequence,
  max(sequence) as last_sequence
from run_output
where event in ('publish', 'reuse')
group by asset, version;

-- Runs with their first and last record, failures and status.
create view run as
select
  run_id,
  min(recorded) as first_recorded,
  max(recorded) as last_recorded,
  count(*) filter (where event = 'publish') as num_published,
  count(*) filter (where event = 'reuse') as num_reused,
  count(*) filter (where event in ('failed_check', 'failed_run')) as num_failures,
  if(num_failures > 0, 'failed', 'ok') as status
from run_output
where run_id is not null
group by run_id;
