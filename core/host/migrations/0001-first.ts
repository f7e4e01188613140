/** Schema 1: the whole project. Masks are COCO compressed run lengths of the oriented image; times are ISO 8601, UTC. */
export const sql = `
-- One row: what this project is, and where its people and its machine stand.
CREATE TABLE settings (
  id             INTEGER PRIMARY KEY CHECK (id = 1),
  project_id     TEXT NOT NULL,
  name           TEXT NOT NULL,
  image_folder   TEXT NOT NULL,
  created_at     TEXT NOT NULL,
  -- When a scan last went through; null: the images are not all known yet.
  scanned_at     TEXT,
  -- Last decision in force; undo and redo move it along the timeline. 0: none.
  history_cursor INTEGER NOT NULL DEFAULT 0,
  -- Whose features the present proposals came from; null until the first pre-label job has finished.
  model_key      TEXT,
  model_run_id   TEXT,
  model_step     INTEGER
) STRICT;

CREATE TABLE images (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  path        TEXT NOT NULL,
  page        INTEGER NOT NULL,
  bytes       INTEGER NOT NULL,
  modified_ms REAL NOT NULL,
  hash        TEXT NOT NULL,
  width       INTEGER NOT NULL,
  height      INTEGER NOT NULL,
  format      TEXT NOT NULL,
  bit_depth   INTEGER NOT NULL,
  channels    INTEGER NOT NULL,
  orientation INTEGER NOT NULL,
  -- 0 when the last full scan did not meet it; rows are kept because decisions hang on them.
  present     INTEGER NOT NULL DEFAULT 1,
  done        INTEGER NOT NULL DEFAULT 0,
  UNIQUE (path, page)
) STRICT;
CREATE INDEX images_in_order ON images (present, path, page, done);

CREATE TABLE problems (
  path    TEXT NOT NULL,
  code    TEXT NOT NULL,
  message TEXT NOT NULL,
  action  TEXT NOT NULL,
  PRIMARY KEY (path, code)
) STRICT;

CREATE TABLE classes (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  name    TEXT NOT NULL,
  color   TEXT NOT NULL,
  -- Kept, because a decision that is undone may need it back.
  removed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX class_names ON classes (name COLLATE NOCASE) WHERE removed = 0;

CREATE TABLE clusters (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  compactness REAL NOT NULL,
  class_id    INTEGER REFERENCES classes (id),
  discarded   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE proposals (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  image_id   INTEGER NOT NULL REFERENCES images (id),
  class_id   INTEGER REFERENCES classes (id),
  -- 1 when a person chose the class of this very proposal: then no machine replaces it.
  class_set  INTEGER NOT NULL DEFAULT 0,
  cluster_id INTEGER REFERENCES clusters (id) ON DELETE SET NULL,
  -- Copy of the cluster's flag: discarded proposals are neither shown nor queued.
  discarded  INTEGER NOT NULL DEFAULT 0,
  score      REAL NOT NULL,
  margin     REAL NOT NULL,
  source     TEXT NOT NULL CHECK (source IN ('region', 'object', 'prototype')),
  x          REAL NOT NULL,
  y          REAL NOT NULL,
  width      REAL NOT NULL,
  height     REAL NOT NULL,
  area       INTEGER NOT NULL,
  rle_width  INTEGER NOT NULL,
  rle_height INTEGER NOT NULL,
  rle_counts TEXT NOT NULL,
  model_key  TEXT NOT NULL,
  state      TEXT NOT NULL DEFAULT 'proposed' CHECK (state IN ('proposed', 'accepted', 'edited', 'rejected', 'unsure'))
) STRICT;
CREATE INDEX proposals_of_image ON proposals (image_id, state, discarded);
CREATE INDEX proposals_of_cluster ON proposals (cluster_id, image_id, state);
CREATE INDEX proposals_surest ON proposals (state, discarded, class_id, score DESC);

CREATE TABLE cluster_examples (
  cluster_id  INTEGER NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
  position    INTEGER NOT NULL,
  proposal_id INTEGER NOT NULL REFERENCES proposals (id) ON DELETE CASCADE,
  PRIMARY KEY (cluster_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX cluster_examples_of_proposal ON cluster_examples (proposal_id);

CREATE TABLE annotations (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  image_id    INTEGER NOT NULL REFERENCES images (id),
  -- The proposal it was made from; null when drawn.
  proposal_id INTEGER REFERENCES proposals (id) ON DELETE SET NULL,
  class_id    INTEGER REFERENCES classes (id),
  state       TEXT NOT NULL CHECK (state IN ('accepted', 'edited', 'drawn')),
  x           REAL NOT NULL,
  y           REAL NOT NULL,
  width       REAL NOT NULL,
  height      REAL NOT NULL,
  area        INTEGER NOT NULL,
  rle_width   INTEGER NOT NULL,
  rle_height  INTEGER NOT NULL,
  rle_counts  TEXT NOT NULL,
  -- Kept, because undo brings it back under the same id.
  removed     INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX annotations_of_image ON annotations (image_id, removed);
CREATE INDEX annotations_of_class ON annotations (class_id, removed);
CREATE INDEX annotations_of_proposal ON annotations (proposal_id);

-- Append-only: what people did, in order. Rows are never deleted; only 'abandoned' may change, from 0 to 1.
CREATE TABLE decisions (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  at             TEXT NOT NULL,
  reviewer       TEXT NOT NULL,
  action         TEXT NOT NULL,
  label          TEXT NOT NULL,
  image_id       INTEGER REFERENCES images (id),
  -- Active seconds as told by the page.
  seconds        REAL NOT NULL,
  objects        INTEGER NOT NULL,
  pixels_changed INTEGER NOT NULL,
  -- 1: a step of the timeline that undo and redo walk along; 0: a note (undo, redo, naming a cluster).
  step           INTEGER NOT NULL,
  -- The decision that an undo or redo was about.
  target_id      INTEGER REFERENCES decisions (id),
  -- 1: undone, then other decisions were made; redo cannot reach it any more.
  abandoned      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX decisions_timeline ON decisions (step, abandoned, id);

-- What a decision changed, object by object. Annotation state 'absent': not there (yet, or any more).
CREATE TABLE decision_changes (
  decision_id     INTEGER NOT NULL REFERENCES decisions (id),
  position        INTEGER NOT NULL,
  object          TEXT NOT NULL CHECK (object IN ('proposal', 'annotation')),
  object_id       INTEGER NOT NULL,
  before_state    TEXT NOT NULL,
  after_state     TEXT NOT NULL,
  before_class_id INTEGER,
  after_class_id  INTEGER,
  before_class_set INTEGER NOT NULL,
  after_class_set INTEGER NOT NULL,
  -- Run lengths when the pixels changed, else null on both sides.
  before_counts   TEXT,
  after_counts    TEXT,
  PRIMARY KEY (decision_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
  id            TEXT PRIMARY KEY,
  preset_title  TEXT NOT NULL,
  model         TEXT NOT NULL,
  started_at    TEXT NOT NULL,
  state         TEXT NOT NULL CHECK (state IN ('running', 'stopped', 'finished', 'failed')),
  step          INTEGER NOT NULL,
  total_steps   INTEGER NOT NULL,
  error_code    TEXT,
  error_message TEXT,
  error_action  TEXT
) STRICT;

CREATE TABLE pca_steps (
  run_id    TEXT NOT NULL REFERENCES runs (id),
  step      INTEGER NOT NULL,
  explained REAL NOT NULL,
  PRIMARY KEY (run_id, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE pca_pictures (
  run_id   TEXT NOT NULL,
  step     INTEGER NOT NULL,
  position INTEGER NOT NULL,
  image_id INTEGER NOT NULL REFERENCES images (id),
  PRIMARY KEY (run_id, step, position),
  FOREIGN KEY (run_id, step) REFERENCES pca_steps (run_id, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE exports (
  id         TEXT PRIMARY KEY,
  created_at TEXT NOT NULL,
  format     TEXT NOT NULL,
  scope      TEXT NOT NULL,
  images     INTEGER NOT NULL,
  objects    INTEGER NOT NULL
) STRICT;

CREATE TABLE export_files (
  export_id TEXT NOT NULL REFERENCES exports (id),
  name      TEXT NOT NULL,
  bytes     INTEGER NOT NULL,
  PRIMARY KEY (export_id, name)
) STRICT, WITHOUT ROWID;
`;
