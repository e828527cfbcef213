-- Codes with which one device each can be paired. Of a code only its handle and a keyed hash
-- are stored.
CREATE TABLE nightporter.invitations (
    handle text PRIMARY KEY,
    digest text NOT NULL,
    name text NOT NULL,
    expires timestamptz NOT NULL,
    tries integer NOT NULL DEFAULT 0
);
