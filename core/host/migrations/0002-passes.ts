/** Schema 2: the passes that the present proposals were made with: learning looks at images in the same way. */
export const sql = `ALTER TABLE settings ADD COLUMN model_passes INTEGER NOT NULL DEFAULT 1 CHECK (model_passes IN (1, 4));`;
