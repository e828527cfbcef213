-- Keeps the rows of tenants apart. May be run again.
--
-- Three policies a table. Everybody but the reader sees all rows; the reader sees those of the
-- tenant in the setting `nightporter.tenant`; and whoever has set it, the tables' owner
-- included, sees no others. `current_user` is compared, rather than having policies for
-- roles only, since policies for a role also apply to its members.
--
-- What the role of this process may not do is left out: the check finds what is missing.
DO $$
DECLARE
    chosen CONSTANT text := '(SELECT NULLIF(current_setting(''nightporter.tenant'', true), ''''))';
    chosen_number CONSTANT text :=
        format('(SELECT id FROM nightporter_ledger.tenants WHERE name = %s)', chosen);
    -- In a subquery, as the others: it is evaluated once a statement and not for each row.
    is_reader CONSTANT text := '(SELECT current_user = ''nightporter_reader'')';
    relation record;
    policy record;
    condition text;
BEGIN
    PERFORM set_config('client_min_messages', 'warning', true);
    IF to_regrole('nightporter_reader') IS NULL THEN
        BEGIN
            CREATE ROLE nightporter_reader NOLOGIN;
        EXCEPTION WHEN OTHERS THEN
            -- Not permitted, or another database's migration was first.
            NULL;
        END;
    END IF;
    IF to_regrole('nightporter_reader') IS NULL THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'nightporter_reader'
               AND (rolsuper OR rolbypassrls OR rolcanlogin)) THEN
        BEGIN
            ALTER ROLE nightporter_reader NOLOGIN NOSUPERUSER NOBYPASSRLS;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;
    IF current_setting('is_superuser') <> 'on' THEN
        BEGIN
            EXECUTE format('GRANT nightporter_reader TO %I', current_user);
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;
    GRANT USAGE ON SCHEMA nightporter_ledger TO nightporter_reader;
    FOR relation IN
        SELECT c.oid, c.relname AS name, a.atttypid::regtype::text AS tenant_type
        FROM pg_class AS c
        LEFT JOIN pg_attribute AS a
            ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped
        WHERE c.relnamespace = 'nightporter_ledger'::regnamespace AND c.relkind IN ('r', 'p')
            AND c.relname <> 'migrations'
    LOOP
        condition := CASE
            WHEN relation.name = 'tenants' THEN format('name = %s', chosen)
            WHEN relation.name IN ('steps', 'notes') THEN format(
                'EXISTS (SELECT FROM nightporter_ledger.requests AS r WHERE r.writer = %1$I.writer
                     AND r.seq = %1$I.seq AND r.tenant = %2$s)',
                relation.name, chosen_number)
            WHEN relation.tenant_type = 'integer' THEN format('tenant = %s', chosen_number)
            WHEN relation.tenant_type = 'text' THEN format('tenant = %s', chosen)
            -- Nothing says whose its rows are.
            ELSE 'false'
        END;
        EXECUTE format(
            'ALTER TABLE nightporter_ledger.%1$I ENABLE ROW LEVEL SECURITY;
             ALTER TABLE nightporter_ledger.%1$I FORCE ROW LEVEL SECURITY;
             DROP POLICY IF EXISTS nightporter_others ON nightporter_ledger.%1$I;
             DROP POLICY IF EXISTS nightporter_reader ON nightporter_ledger.%1$I;
             DROP POLICY IF EXISTS nightporter_tenant ON nightporter_ledger.%1$I;
             CREATE POLICY nightporter_others ON nightporter_ledger.%1$I USING (NOT %2$s);
             CREATE POLICY nightporter_reader ON nightporter_ledger.%1$I FOR SELECT
                 TO nightporter_reader USING (%3$s);
             CREATE POLICY nightporter_tenant ON nightporter_ledger.%1$I AS RESTRICTIVE
                 USING (CASE WHEN %2$s OR %4$s IS NOT NULL THEN %3$s ELSE true END);
             REVOKE ALL ON nightporter_ledger.%1$I FROM nightporter_reader',
            relation.name, is_reader, condition, chosen);
        -- Tokens and stored answers are read by the process for itself only.
        IF condition <> 'false' AND relation.name <> 'tokens'
            AND relation.name NOT LIKE 'idempotency%' THEN
            EXECUTE format('GRANT SELECT ON nightporter_ledger.%I TO nightporter_reader',
                relation.name);
        END IF;
        -- As the server writes definitions differently from version to version, each is
        -- compared with what it was when it was made.
        FOR policy IN
            SELECT p.polname AS name, concat_ws('; ', p.polcmd, p.polpermissive, p.polroles::regrole[]::text,
                pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
                AS definition
            FROM pg_policy AS p
            WHERE p.polrelid = relation.oid AND p.polname LIKE 'nightporter\_%'
        LOOP
            EXECUTE format('COMMENT ON POLICY %I ON nightporter_ledger.%I IS %L',
                policy.name, relation.name, 'nightporter ' || md5(policy.definition));
        END LOOP;
    END LOOP;
END
$$
