-- The platform's own part of a database that tenants enter; no tenant has a right to any of it.
-- Everything here can be run again.

CREATE SCHEMA IF NOT EXISTS agent_platform;

-- Advisory locks lie in the server's one table of locks: a single statement fills it, and then nobody works.
DO $$
DECLARE
  lock_function regprocedure;
BEGIN
  FOR lock_function IN
    SELECT oid FROM pg_catalog.pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^pg_(try_)?advisory_(xact_)?lock'
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', lock_function);
  END LOOP;
END
$$;

-- Which step of the migrations each schema is on. While one is taken, `next` and its transaction stand here:
-- the server knows for certain whether that was committed, even if whoever began it is gone.
CREATE TABLE IF NOT EXISTS agent_platform.revisions (
  schema name PRIMARY KEY,
  revision text NOT NULL,
  next text,
  transaction xid8
);

-- Ends a login that Vault made. What hangs on it (a grant of another tenant's, something in another database)
-- can keep it from being dropped, but not from ending: it stays without the right to log in, and each later
-- call tries again.
CREATE OR REPLACE FUNCTION agent_platform.end_login(login name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
AS $$
DECLARE
  left_over name;
BEGIN
  IF login NOT LIKE 'v-%' THEN
    RAISE EXCEPTION 'role % is no login of Vault''s', login;
  END IF;
  FOR attempt IN 1..20 LOOP
    -- First its sessions: one that changes its own password holds its role for as long as it likes.
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = login;
    BEGIN
      EXECUTE format('ALTER ROLE %I NOLOGIN PASSWORD NULL', login);
      EXIT;
    EXCEPTION
      WHEN undefined_object THEN EXIT;
      WHEN lock_not_available OR internal_error THEN
        IF attempt = 20 THEN
          RAISE;
        END IF;
    END;
  END LOOP;
  FOR left_over IN
    SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%' AND NOT rolcanlogin
    ORDER BY rolname = login DESC, random() LIMIT 10
  LOOP
    BEGIN
      EXECUTE format('DROP OWNED BY %I CASCADE', left_over);
      EXECUTE format('DROP ROLE %I', left_over);
    EXCEPTION WHEN OTHERS THEN
      RAISE WARNING 'role % can no longer log in, but cannot be dropped yet: %', left_over, SQLERRM;
    END;
  END LOOP;
  -- Whoever came in while this, or an earlier call, was not yet committed.
  PERFORM pg_stat_clear_snapshot();
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity LEFT JOIN pg_roles ON oid = usesysid
  WHERE backend_type = 'client backend' AND usesysid IS NOT NULL
    AND (oid IS NULL OR rolname LIKE 'v-%' AND NOT rolcanlogin);
END
$$;
REVOKE ALL ON FUNCTION agent_platform.end_login FROM PUBLIC;

-- Takes back the way into this database that the caller, Vault, granted to a login; one that is gone has none.
CREATE OR REPLACE FUNCTION agent_platform.shut_out(login name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM %I', current_database(), login);
EXCEPTION WHEN undefined_object THEN
  NULL;
END
$$;
REVOKE ALL ON FUNCTION agent_platform.shut_out FROM PUBLIC;

-- The logins that act for tenants. Administrators, Vault and migrations act for nobody.
CREATE OR REPLACE VIEW agent_platform.logins AS
SELECT login.oid AS login, login.rolname AS name, tenant.rolname AS tenant
FROM pg_catalog.pg_auth_members
JOIN pg_catalog.pg_roles AS tenant ON tenant.oid = roleid
JOIN pg_catalog.pg_roles AS login ON login.oid = member
WHERE pg_catalog.starts_with(tenant.rolname, 'tenant_')
  AND NOT login.rolsuper AND NOT login.rolcreaterole
  AND login.rolname NOT LIKE 'tenant\_%\_migration';

-- How much each tenant may have in this database, and in its own if there is one of its name; what it has.
CREATE TABLE IF NOT EXISTS agent_platform.limits (
  schema name PRIMARY KEY,
  bytes bigint NOT NULL,
  used bigint NOT NULL DEFAULT 0,
  lenient_until timestamptz
);

-- Ends the sessions of tenants that are too long in one transaction or statement, idle in a transaction, or
-- hold too many locks. What a session sets for itself binds it no longer than it likes; its age it cannot
-- change.
CREATE OR REPLACE FUNCTION agent_platform.hold_sessions(
  longest interval, idlest interval, only_of name DEFAULT NULL, most_locks integer DEFAULT 2000
) RETURNS TABLE (tenant name, told text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
WITH locked AS (
  SELECT pid, count(*) AS locks FROM pg_locks GROUP BY 1
), ages AS (
  SELECT pid, logins.tenant, name, coalesce(locks, 0) AS locks,
    -- One that listens is in a transaction while it is notified, which lasts until its client reads.
    clock_timestamp() - CASE state WHEN 'idle' THEN xact_start ELSE state_change END AS idle,
    -- A procedure may begin one transaction after the other within one statement.
    clock_timestamp() - CASE state WHEN 'active' THEN least(xact_start, query_start) ELSE xact_start END AS age,
    state LIKE 'idle%' AS idles
  FROM pg_stat_activity JOIN agent_platform.logins ON login = usesysid LEFT JOIN locked USING (pid)
  WHERE backend_type = 'client backend' AND (state <> 'idle' OR xact_start IS NOT NULL)
    AND coalesce(logins.tenant = only_of, true)
), ended AS MATERIALIZED (
  SELECT * FROM ages WHERE age > longest OR idles AND idle > idlest OR locks > most_locks
)
SELECT tenant, format('ended a session of its login %s, %s', name, CASE
    WHEN locks > most_locks THEN format('with %s locks of at most %s', locks, most_locks)
    WHEN idles AND idle > idlest THEN format('idle in a transaction for %s s', extract(epoch FROM idle)::int)
    ELSE format('at one transaction or statement for %s s', extract(epoch FROM age)::int) END)
FROM ended WHERE pg_terminate_backend(pid)
$$;
REVOKE ALL ON FUNCTION agent_platform.hold_sessions FROM PUBLIC;

-- What each tenant has, in bytes. It takes no lock on anything of a tenant's, so none can keep it waiting:
-- files are looked at where they are. Large objects share one table and are counted by their pages.
CREATE OR REPLACE FUNCTION agent_platform.measure() RETURNS TABLE (schema name, used bigint)
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
WITH here AS (
  SELECT oid, 'base/' || oid AS folder FROM pg_database WHERE datname = current_database()
), files AS MATERIALIZED (
  SELECT substring(file FROM '^(?:t\d+_)?(\d+)')::oid AS node, sum(size) AS bytes, max(modification) AS written
  FROM here, pg_ls_dir(folder) AS file, pg_stat_file(folder || '/' || file, true)
  WHERE file ~ '^(t\d+_)?\d+' GROUP BY 1
), owners AS MATERIALIZED (
  SELECT limits.schema, oid AS role FROM agent_platform.limits JOIN pg_roles ON rolname = limits.schema
  UNION SELECT tenant, login FROM agent_platform.logins
), holders AS MATERIALIZED (
  SELECT DISTINCT owners.schema, relation, mode, backend_xid IS NOT NULL AS writes
  FROM here, pg_locks JOIN pg_stat_activity USING (pid) JOIN owners ON role = usesysid
  WHERE locktype = 'relation' AND pg_locks.database = here.oid
), hidden AS MATERIALIZED (
  -- Of a transaction that has not ended: nobody else sees what it made.
  SELECT node, bytes, written FROM files
  WHERE NOT EXISTS (SELECT FROM pg_class WHERE relfilenode = node)
    AND NOT EXISTS (SELECT FROM pg_class WHERE relfilenode = 0 AND pg_relation_filenode(pg_class.oid) = node)
), entries AS MATERIALIZED (
  -- What it has in the catalogs, which all share: for each row a flat charge, and the texts that it chose.
  SELECT relowner AS owner, 'pg_class'::regclass AS catalog, oid AS object, 4096 + relnatts * 256 AS bytes
  FROM pg_class
  UNION ALL
  SELECT proowner, 'pg_proc'::regclass, oid, 1024 + pg_column_size(prosrc)
    + coalesce(pg_column_size(prosqlbody), 0) + coalesce(pg_column_size(proargdefaults), 0)
  FROM pg_proc
  UNION ALL
  SELECT typowner, 'pg_type'::regclass, oid, 1024 + coalesce(pg_column_size(typdefault), 0) FROM pg_type
  UNION ALL
  SELECT nspowner, 'pg_namespace'::regclass, oid, 1024 FROM pg_namespace
  UNION ALL
  SELECT lomowner, 'pg_largeobject'::regclass, oid, 1024 FROM pg_largeobject_metadata
), belongings AS MATERIALIZED (
  -- A rule, a constraint or the like is whose its table, function, type or schema is.
  SELECT owner, catalog, object FROM entries
  UNION SELECT owner, classid, objid FROM pg_depend JOIN entries ON catalog = refclassid AND object = refobjid
), texts AS (
  SELECT classoid AS catalog, objoid AS object, pg_column_size(description) AS bytes FROM pg_description
  UNION ALL SELECT 'pg_rewrite'::regclass, oid, pg_column_size(ev_action) FROM pg_rewrite
  UNION ALL SELECT 'pg_attrdef'::regclass, oid, pg_column_size(adbin) FROM pg_attrdef
  UNION ALL SELECT 'pg_constraint'::regclass, oid, pg_column_size(conbin) FROM pg_constraint
  UNION ALL SELECT 'pg_trigger'::regclass, oid, pg_column_size(tgargs) + coalesce(pg_column_size(tgqual), 0)
  FROM pg_trigger
  UNION ALL
  SELECT 'pg_policy'::regclass, oid,
    coalesce(pg_column_size(polqual), 0) + coalesce(pg_column_size(polwithcheck), 0)
  FROM pg_policy
  UNION ALL
  SELECT 'pg_class'::regclass, indexrelid,
    coalesce(pg_column_size(indexprs), 0) + coalesce(pg_column_size(indpred), 0)
  FROM pg_index
), parts AS (
  SELECT owners.schema, sum(bytes) AS bytes FROM entries JOIN owners ON role = owner GROUP BY 1
  UNION ALL
  SELECT owners.schema, sum(bytes) FROM texts JOIN belongings USING (catalog, object)
  JOIN owners ON role = owner GROUP BY 1
  UNION ALL
  SELECT owners.schema, bytes FROM pg_class JOIN owners ON role = relowner JOIN files ON node = relfilenode
  UNION ALL
  -- A new table's file has its number, which only who made it can lock.
  SELECT DISTINCT holders.schema, bytes FROM hidden JOIN holders ON relation = node
  UNION ALL
  -- A truncated table's new file has not. It counts for whoever writes while holding a table all to itself.
  SELECT DISTINCT holders.schema, (
    SELECT sum(bytes) FROM hidden WHERE written > clock_timestamp() - interval '2 min'
      AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND relation = node)
  ) FROM holders WHERE writes AND mode = 'AccessExclusiveLock'
  UNION ALL
  SELECT owners.schema, count(*) * current_setting('block_size')::bigint / 4
  FROM pg_largeobject JOIN pg_largeobject_metadata AS large ON large.oid = loid
  JOIN owners ON role = lomowner GROUP BY 1
  UNION ALL
  -- What its sessions sort and hash on disk, each of them within temp_file_limit.
  SELECT owners.schema, size FROM pg_ls_tmpdir()
  JOIN pg_stat_activity ON starts_with(name, 'pgsql_tmp' || pid || '.') JOIN owners ON role = usesysid
  UNION ALL
  SELECT limits.schema, pg_database_size(datname) FROM agent_platform.limits
  JOIN pg_database ON datname = limits.schema
)
SELECT limits.schema, coalesce(sum(parts.bytes), 0)::bigint
FROM agent_platform.limits LEFT JOIN parts USING (schema) GROUP BY 1
$$;
REVOKE ALL ON FUNCTION agent_platform.measure FROM PUBLIC;

-- Once a minute: holds every tenant to its limits, and tells what there is to tell (docs/decisions/0068).
-- That a tenant is refused stands in its role's comment, which all databases of the server see and no tenant
-- can write.
CREATE OR REPLACE FUNCTION agent_platform.hold_to_limits()
RETURNS TABLE (tenant name, told text, refused boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $$
DECLARE
  each record;
  amount text;
BEGIN
  RETURN QUERY SELECT *, false FROM agent_platform.hold_sessions('15 min', '1 min');
  BEGIN
    UPDATE agent_platform.limits SET used = found.used FROM agent_platform.measure() AS found
    WHERE found.schema = limits.schema AND found.used <> limits.used;
  EXCEPTION WHEN query_canceled THEN
    RETURN QUERY SELECT 'tenants'::name, 'could not be measured in time: each counts as a minute ago', true;
  END;
  FOR each IN
    SELECT limits.*, used > bytes AS over, shobj_description(oid, 'pg_authid') AS comment
    FROM agent_platform.limits JOIN pg_roles ON rolname = limits.schema
  LOOP
    amount := format('it has %s of at most %s in PostgreSQL',
      regexp_replace(pg_size_pretty(each.used), 'B$', 'iB'),
      regexp_replace(pg_size_pretty(each.bytes), 'B$', 'iB'));
    tenant := each.schema;
    refused := each.over AND coalesce(each.lenient_until < clock_timestamp(), true);
    told := CASE WHEN refused THEN amount || ': it is refused until it has less'
      WHEN each.over THEN format('%s: it is let in until %s', amount, each.lenient_until)
      WHEN each.used > each.bytes * 0.9 THEN amount END;
    IF refused OR starts_with(each.comment, 'refused: ') THEN
      BEGIN
        EXECUTE format('COMMENT ON ROLE %I IS %L', tenant, CASE WHEN refused THEN 'refused: ' || amount END);
      EXCEPTION WHEN lock_not_available OR internal_error OR out_of_memory THEN
        told := concat_ws('; ', told, 'its role is locked, so the next minute tries again');
      END;
    END IF;
    IF refused THEN
      PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
      JOIN agent_platform.logins ON login = usesysid WHERE logins.tenant = each.schema;
    END IF;
    IF told IS NOT NULL THEN
      RETURN NEXT;
    END IF;
  END LOOP;
END
$$;
REVOKE ALL ON FUNCTION agent_platform.hold_to_limits FROM PUBLIC;

-- What monitoring is told of each tenant, and all that the role `monitoring` may ask for. Rows are PostgreSQL's
-- estimates, which cost nothing; a statement's text is nobody's to see.
CREATE OR REPLACE FUNCTION agent_platform.figures() RETURNS TABLE (
  tenant name, used bigint, bytes bigint, connections bigint, rows bigint,
  longest_seconds double precision, slow bigint, waiting bigint
)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
WITH sessions AS MATERIALIZED (
  SELECT logins.tenant, wait_event_type = 'Lock' AS waits,
    CASE state WHEN 'active' THEN extract(epoch FROM clock_timestamp() - query_start) END AS seconds
  FROM pg_stat_activity JOIN agent_platform.logins ON login = usesysid WHERE backend_type = 'client backend'
), held AS (
  SELECT sessions.tenant, count(*) AS connections, coalesce(max(seconds), 0) AS longest,
    count(*) FILTER (WHERE seconds > 5) AS slow, count(*) FILTER (WHERE waits) AS waiting
  FROM sessions GROUP BY 1
), counted AS (
  SELECT schemaname, sum(n_live_tup)::bigint AS rows FROM pg_stat_all_tables GROUP BY 1
)
SELECT limits.schema, limits.used, limits.bytes, coalesce(held.connections, 0), coalesce(counted.rows, 0),
  coalesce(longest, 0), coalesce(held.slow, 0), coalesce(held.waiting, 0)
FROM agent_platform.limits
LEFT JOIN held ON held.tenant = limits.schema LEFT JOIN counted ON schemaname = limits.schema
$$;
REVOKE ALL ON FUNCTION agent_platform.figures FROM PUBLIC;

-- Refuses the logins of a tenant that has too much, in words that its agents' logs show.
CREATE OR REPLACE FUNCTION agent_platform.admit() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  each record;
BEGIN
  FOR each IN
    SELECT tenant, shobj_description(to_regrole(quote_ident(tenant)), 'pg_authid') AS comment
    FROM agent_platform.logins WHERE name = session_user
  LOOP
    IF starts_with(each.comment, 'refused: ') THEN
      RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = each.tenant || ' is ' || each.comment,
        HINT = 'The platform''s operators can let it in to delete, or move it to a larger tier.';
    END IF;
  END LOOP;
END
$$;
REVOKE ALL ON FUNCTION agent_platform.admit FROM PUBLIC;
DROP EVENT TRIGGER IF EXISTS agent_platform_admit;
CREATE EVENT TRIGGER agent_platform_admit ON login EXECUTE FUNCTION agent_platform.admit();
