-- What tells nightporter of changes. The functions run inside the writes of
-- others: they call nothing but pg_catalog, build no SQL, and keep every
-- payload below the server's limit of 8000 bytes, beyond which NOTIFY would
-- fail the write.

-- Arguments of the trigger: the table's name to readers, its key column.
CREATE OR REPLACE FUNCTION nightporter.notify_row() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_key text;
    new_key text;
    renamed boolean;
    event record;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        IF TG_ARGV[1] = 'name' THEN old_key := OLD.name;
        ELSIF TG_ARGV[1] = 'key' THEN old_key := OLD.key;
        ELSE old_key := OLD.id;
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        IF TG_ARGV[1] = 'name' THEN new_key := NEW.name;
        ELSIF TG_ARGV[1] = 'key' THEN new_key := NEW.key;
        ELSE new_key := NEW.id;
        END IF;
    END IF;
    renamed := TG_OP = 'UPDATE' AND old_key IS DISTINCT FROM new_key;
    FOR event IN
        SELECT * FROM (VALUES
            ('delete', old_key, renamed OR TG_OP = 'DELETE'),
            ('insert', new_key, renamed OR TG_OP = 'INSERT'),
            ('update', new_key, NOT renamed AND TG_OP = 'UPDATE')
        ) AS e (op, key, happened) WHERE happened
    LOOP
        -- JSON may take six bytes for one.
        IF octet_length(event.key) <= 1000 THEN
            PERFORM pg_notify('nightporter', json_build_object(
                'table', TG_ARGV[0], 'op', event.op, 'key', event.key)::text);
        ELSE
            PERFORM pg_notify('nightporter', json_build_object(
                'table', TG_ARGV[0], 'op', 'reset')::text);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- Argument of the trigger: the table's name to readers.
CREATE OR REPLACE FUNCTION nightporter.notify_table() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('nightporter', json_build_object(
        'table', TG_ARGV[0], 'op', 'reset')::text);
    RETURN NULL;
END
$$;
