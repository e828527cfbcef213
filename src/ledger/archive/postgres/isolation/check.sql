-- Returns what is missing of what keeps the rows of tenants apart, as texts.
WITH reader AS (
    SELECT * FROM pg_roles WHERE rolname = 'nightporter_reader'
), relations AS (
    SELECT c.* FROM pg_class AS c
    WHERE c.relnamespace = 'nightporter_ledger'::regnamespace AND c.relname <> 'migrations'
), expected (name) AS (
    VALUES ('nightporter_others'), ('nightporter_reader'), ('nightporter_tenant')
), policies AS (
    SELECT p.*, concat_ws('; ', p.polcmd, p.polpermissive, p.polroles::regrole[]::text,
            pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
            AS definition,
        obj_description(p.oid, 'pg_policy') AS note
    FROM pg_policy AS p
)
SELECT 'the role `nightporter_reader` does not exist' AS problem
WHERE NOT EXISTS (SELECT FROM reader)
UNION ALL
SELECT 'the role `nightporter_reader` ' || what
FROM reader, LATERAL (VALUES
    (rolsuper, 'is a superuser'),
    (rolbypassrls, 'has the attribute BYPASSRLS'),
    (rolcanlogin, 'can log in'),
    (EXISTS (SELECT FROM pg_auth_members AS m WHERE m.member = reader.oid),
        'is a member of other roles'),
    (NOT pg_has_role(current_user, reader.oid, 'MEMBER'),
        'was not granted to `' || current_user || '`')
) AS problems (is_so, what)
WHERE is_so
UNION ALL
SELECT 'row-level security is not ' || what || ' on `' || relname || '`'
FROM relations, LATERAL (VALUES
    (NOT relrowsecurity, 'enabled'), (NOT relforcerowsecurity, 'forced')) AS problems (is_so, what)
WHERE relkind IN ('r', 'p') AND is_so
UNION ALL
SELECT 'the policy `' || expected.name || '` is missing or was altered on `' || relname || '`'
FROM relations CROSS JOIN expected
LEFT JOIN policies AS p ON p.polrelid = relations.oid AND p.polname = expected.name
WHERE relkind IN ('r', 'p') AND EXISTS (SELECT FROM reader)
    AND (p.oid IS NULL OR p.note IS DISTINCT FROM 'nightporter ' || md5(p.definition))
UNION ALL
SELECT 'the role `nightporter_reader` may read `' || relname || '`, which has no policies'
FROM relations, reader
WHERE relkind IN ('v', 'm', 'f') AND has_table_privilege(reader.oid, relations.oid, 'SELECT')
UNION ALL
SELECT 'the role `nightporter_reader` may write to `' || relname || '`'
FROM relations, reader
WHERE relkind IN ('r', 'p')
    AND has_table_privilege(reader.oid, relations.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
UNION ALL
SELECT 'the setting `nightporter.tenant` is set for every session of `' || current_user || '`'
WHERE NULLIF(current_setting('nightporter.tenant', true), '') IS NOT NULL
