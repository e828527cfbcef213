#!/bin/sh
# Creates a new box in an empty database: FreeShard's tables, an identity of its own and
# the two sample apps. The Postgres image runs this once; a real box has its own tables.
set -eu

key=$(openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 2>/dev/null)
public=$(printf '%s\n' "$key" | openssl pkey -pubout)

psql -v ON_ERROR_STOP=1 -q --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    -v key="$key" -v public="$public" <<'SQL'
CREATE TABLE installed_apps (
    name text PRIMARY KEY, installation_reason text, status text, last_access timestamptz);
CREATE TABLE identities (
    id text PRIMARY KEY, name text, email text, description text,
    private_key text, is_default boolean);
CREATE TABLE terminals (
    id text PRIMARY KEY, name text, icon text, last_connection timestamptz);
CREATE TABLE peers (id text PRIMARY KEY, name text, public_bytes_b64 text, is_reachable boolean);
CREATE TABLE kv_store (key text PRIMARY KEY, value jsonb);

INSERT INTO installed_apps VALUES
    ('notes', 'config', 'running', NULL),
    ('wiki', 'config', 'running', NULL);

-- The id is the SHA-512 of the public key's PEM, five bits per character.
WITH digest AS (
    SELECT rpad(right(sha512(convert_to(:'public' || E'\n', 'UTF8'))::text, -1)::bit(512)::text,
        515, '0') AS bits)
INSERT INTO identities (id, name, private_key, is_default)
SELECT string_agg(substr('abcdefghjklnpqrstvwxyz0123456789',
        substr(bits, at, 5)::bit(5)::integer + 1, 1), '' ORDER BY at),
    'Sample box', :'key', true
FROM digest, generate_series(1, 511, 5) AS at;
SQL
