/** Schema 4: the last curation, what it found of copies and clusters. Replaced as a whole by the next one. */
export const sql = `
-- One row, or none before the first curation.
CREATE TABLE curation (
  id         INTEGER PRIMARY KEY CHECK (id = 1),
  created_at TEXT NOT NULL,
  -- "pictures", or the key of the network whose features described the images.
  features   TEXT NOT NULL
) STRICT;

CREATE TABLE curation_clusters (
  id          INTEGER PRIMARY KEY,
  compactness REAL NOT NULL
) STRICT;

CREATE TABLE curation_examples (
  cluster_id INTEGER NOT NULL REFERENCES curation_clusters (id) ON DELETE CASCADE,
  position   INTEGER NOT NULL,
  image_id   INTEGER NOT NULL REFERENCES images (id),
  PRIMARY KEY (cluster_id, position)
) STRICT, WITHOUT ROWID;

-- Every image it was about, readable or not.
CREATE TABLE curation_images (
  image_id   INTEGER PRIMARY KEY REFERENCES images (id),
  -- The file as it was then: another one now makes the curation out of date.
  hash       TEXT NOT NULL,
  -- Null: could not be read, or had no features.
  cluster_id INTEGER REFERENCES curation_clusters (id),
  -- Its group of copies and its place in it (0: the one to keep); null: it has none.
  group_id   INTEGER,
  position   INTEGER,
  similarity REAL,
  exact      INTEGER
) STRICT;
CREATE INDEX curation_groups ON curation_images (group_id, position);
`;
