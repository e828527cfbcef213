-- The hash identifies a token; the token itself is not kept. The tenant `*` stands for all.
CREATE TABLE nightporter_ledger.tokens (
    tenant text COLLATE "C" NOT NULL CHECK (tenant <> ''),
    id text COLLATE "C" NOT NULL UNIQUE,
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    name text NOT NULL,
    rights text NOT NULL,
    created int8 NOT NULL,
    expires int8,
    last_use int8,
    PRIMARY KEY (tenant, id)
);
