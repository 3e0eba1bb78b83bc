-- The platform's own part of a database that tenants enter; no tenant has a right to any of it.
-- Everything here can be run again.

CREATE SCHEMA IF NOT EXISTS agent_platform;

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
