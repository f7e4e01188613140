/** Schema 3: networks imported from other programs' files, and networks written for them. Times are ISO 8601, UTC. */
export const sql = `
-- A network in weights/<id>/weights.safetensors.
CREATE TABLE weights (
  -- First 16 digits of sha256.
  id          TEXT PRIMARY KEY,
  file_name   TEXT NOT NULL,
  bytes       INTEGER NOT NULL,
  -- Of the imported file, hex.
  sha256      TEXT NOT NULL UNIQUE,
  -- 1: it was given at import, and was this one.
  checked     INTEGER NOT NULL,
  imported_at TEXT NOT NULL,
  layout      TEXT NOT NULL,
  type        TEXT NOT NULL,
  -- Its configuration, JSON.
  model       TEXT NOT NULL,
  parameters  INTEGER NOT NULL,
  has_dino    INTEGER NOT NULL,
  has_ibot    INTEGER NOT NULL,
  -- A line each.
  notes       TEXT NOT NULL
) STRICT;

-- A folder exports/<id>.
CREATE TABLE network_exports (
  id         TEXT PRIMARY KEY,
  created_at TEXT NOT NULL,
  format     TEXT NOT NULL CHECK (format IN ('official', 'huggingface', 'trainer-checkpoint', 'hand-over')),
  source     TEXT NOT NULL,
  bytes      INTEGER NOT NULL,
  -- Names, a line each.
  files      TEXT NOT NULL
) STRICT;

-- Set when the present proposals came from an imported network; then there is no model_run_id.
ALTER TABLE settings ADD COLUMN model_weights_id TEXT;
`;
