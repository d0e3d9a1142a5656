-- The lineage index, split as OpenLineage splits it: static facts by data set version, per-run facts by run.
-- It holds nothing that manifests and events do not hold. No keys and no secondary indexes: the writer
-- inserts each event once, and a scan of these tables is fast enough.

create table if not exists indexed_event (sequence bigint);

create table if not exists dataset_version (
  asset varchar,
  version varchar,
  kind varchar,
  partition varchar,
  code_version varchar,
  requested varchar,
  parameters varchar,
  packages varchar,
  created timestamptz
);

create table if not exists version_input (
  asset varchar,
  version varchar,
  input_asset varchar,
  input_version varchar
);

create table if not exists external_file (
  asset varchar,
  version varchar,
  file varchar,
  sha256 varchar
);

create table if not exists run_output (
  sequence bigint,
  run_id varchar,
  asset varchar,
  version varchar,
  event varchar,
  overridden boolean,
  recorded timestamptz
);

create table if not exists row_count (
  asset varchar,
  version varchar,
  stage varchar,
  num_rows bigint
);

create table if not exists drop_count (
  asset varchar,
  version varchar,
  rule varchar,
  num_dropped bigint
);

create table if not exists check_result (
  sequence bigint,
  asset varchar,
  version varchar,
  name varchar,
  passed boolean,
  description varchar,
  metadata varchar
);

create table if not exists checkpoint (
  asset varchar,
  version varchar,
  base varchar,
  objective varchar,
  num_train_pairs bigint,
  num_steps bigint,
  seconds double
);

create table if not exists training_metric (
  asset varchar,
  version varchar,
  step bigint,
  name varchar,
  value double
);

create table if not exists benchmark_score (
  asset varchar,
  version varchar,
  checkpoint_asset varchar,
  checkpoint_version varchar,
  benchmark varchar,
  part varchar,
  score double,
  n bigint,
  ci_low double,
  ci_high double
);
