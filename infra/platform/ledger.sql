-- The ledger: what each tenant has used, hour by hour (docs/decisions/0075). It lies in the database that tenants
-- share, and no tenant has a right to any of it. Everything here can be run again.

-- The hours that are not over yet. A tenant whose tier or size changed within an hour has a row for each.
CREATE TABLE IF NOT EXISTS agent_platform.meter (
  tenant name NOT NULL,
  hour timestamptz NOT NULL,
  tier text NOT NULL,
  cpu int NOT NULL,
  memory_gib int NOT NULL,
  workspace_gib int NOT NULL,
  -- How long the tenant had this tier and size, and how long its agents' machine or pod ran.
  seconds numeric NOT NULL DEFAULT 0,
  awake_seconds numeric NOT NULL DEFAULT 0,
  -- As last measured; null: not measured yet.
  object_bytes bigint,
  database_bytes bigint,
  backup_bytes bigint,
  received_bytes bigint NOT NULL DEFAULT 0,
  sent_bytes bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, hour, tier, cpu, memory_gib, workspace_gib)
);

-- The hours that are over. A row is added once and never changed; what is found out later is a row of its own.
CREATE TABLE IF NOT EXISTS agent_platform.ledger (
  LIKE agent_platform.meter INCLUDING DEFAULTS,
  recorded timestamptz NOT NULL,
  PRIMARY KEY (hour, tenant, tier, cpu, memory_gib, workspace_gib, recorded)
);

CREATE OR REPLACE FUNCTION agent_platform.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'the ledger is never changed' USING HINT = 'Add a row that corrects what is wrong.';
END
$$;
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON agent_platform.ledger
EXECUTE FUNCTION agent_platform.refuse_change();
-- Whatever a session calls itself, a replica too.
ALTER TABLE agent_platform.ledger ENABLE ALWAYS TRIGGER append_only;

-- Up to when each tenant's time is counted, whether it was awake then, when it last was, and what was last measured
-- of it.
CREATE TABLE IF NOT EXISTS agent_platform.metered (
  tenant name PRIMARY KEY,
  until timestamptz NOT NULL,
  awake boolean NOT NULL,
  last_awake timestamptz,
  object_bytes bigint,
  backup_bytes bigint
);

-- What each gateway's counters showed when they were last read. A gateway that starts anew is another source.
CREATE TABLE IF NOT EXISTS agent_platform.counters (
  source text NOT NULL,
  tenant name NOT NULL,
  received_bytes bigint NOT NULL,
  sent_bytes bigint NOT NULL,
  seen timestamptz NOT NULL,
  PRIMARY KEY (source, tenant)
);

-- Counts what tenants have used until `at`, and moves the hours that are over to the ledger, in one transaction. A
-- time that is counted is never counted again, so a caller that does not know whether a call was committed repeats
-- it. Time that no call has counted is counted by the next one, at the tier and size that the tenant has then.
--
-- tenants: [{tenant, since, tier, cpu, memory_gib, workspace_gib, runs, object_bytes, backup_bytes}]. `since` is
-- when the tenant was made. `runs` are [from, to] of its machine or pod; without `from` it is the run that was
-- going on when time was last counted, without `to` it is still going on.
-- counts: [{source, tenant, received_bytes, sent_bytes}], the counters of each gateway.
CREATE OR REPLACE FUNCTION agent_platform.count_usage(at timestamptz, tenants jsonb, counts jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '20s'
AS $$
DECLARE
  previous timestamptz;
BEGIN
  LOCK TABLE agent_platform.metered IN SHARE ROW EXCLUSIVE MODE;
  IF at > clock_timestamp() + interval '1 min' THEN
    RAISE EXCEPTION 'it is not % yet', at;
  END IF;
  SELECT max(until) INTO previous FROM agent_platform.metered;
  WITH told AS MATERIALIZED (
    SELECT each.*, coalesce(metered.awake, false) AS was_awake,
      coalesce(metered.until, greatest(each.since, coalesce(previous, at))) AS counted,
      coalesce(each.object_bytes, metered.object_bytes) AS objects,
      coalesce(each.backup_bytes, metered.backup_bytes) AS backups
    FROM jsonb_to_recordset(tenants) AS each(
      tenant name, since timestamptz, tier text, cpu int, memory_gib int, workspace_gib int, runs jsonb,
      object_bytes bigint, backup_bytes bigint
    ) LEFT JOIN agent_platform.metered USING (tenant)
  ), runs AS MATERIALIZED (
    SELECT tenant, coalesce((run ->> 1)::timestamptz > at, true) AS goes_on,
      greatest(counted, coalesce((run ->> 0)::timestamptz, counted)) AS begins,
      least(at, coalesce((run ->> 1)::timestamptz, at)) AS ends
    FROM told, jsonb_array_elements(runs) AS run
    WHERE was_awake OR run ->> 0 IS NOT NULL
  ), spans AS (
    SELECT tenant, counted AS begins, at AS ends, false AS awake FROM told WHERE counted < at
    UNION ALL
    -- Runs that overlap count once.
    SELECT tenant, lower(span), upper(span), true
    FROM (
      SELECT tenant, range_agg(tstzrange(begins, ends)) AS all_spans FROM runs WHERE begins < ends GROUP BY 1
    ) AS merged, unnest(all_spans) AS span
  ), hours AS (
    SELECT tenant, hour,
      sum(extract(epoch FROM least(ends, hour + interval '1 h') - greatest(begins, hour)))
        FILTER (WHERE NOT awake) AS seconds,
      sum(extract(epoch FROM least(ends, hour + interval '1 h') - greatest(begins, hour)))
        FILTER (WHERE awake) AS awake_seconds
    FROM spans, generate_series(date_trunc('hour', begins, 'UTC'), ends, interval '1 h') AS hour
    WHERE hour < ends
    GROUP BY 1, 2
  ), read AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(counts) AS each(
      source text, tenant name, received_bytes bigint, sent_bytes bigint
    ) WHERE tenant IN (SELECT tenant FROM told)
  ), flows AS (
    SELECT tenant, date_trunc('hour', at, 'UTC') AS hour,
      sum(greatest(read.received_bytes - coalesce(seen.received_bytes, 0), 0)) AS received_bytes,
      sum(greatest(read.sent_bytes - coalesce(seen.sent_bytes, 0), 0)) AS sent_bytes
    FROM read LEFT JOIN agent_platform.counters AS seen USING (source, tenant)
    WHERE previous IS NOT NULL -- what was counted before there was a ledger is nobody's
    GROUP BY 1
  ), keep_counters AS (
    INSERT INTO agent_platform.counters AS kept
    SELECT source, tenant, received_bytes, sent_bytes, at FROM read
    ON CONFLICT (source, tenant) DO UPDATE SET
      received_bytes = greatest(kept.received_bytes, excluded.received_bytes),
      sent_bytes = greatest(kept.sent_bytes, excluded.sent_bytes),
      seen = excluded.seen
  ), keep_metered AS (
    INSERT INTO agent_platform.metered AS kept
    SELECT tenant, greatest(counted, at), coalesce(any_goes_on, false), last_end, objects, backups
    FROM told LEFT JOIN (
      SELECT tenant, bool_or(goes_on) AS any_goes_on, max(ends) FILTER (WHERE begins < ends) AS last_end
      FROM runs GROUP BY 1
    ) AS last_runs USING (tenant)
    ON CONFLICT (tenant) DO UPDATE SET
      until = excluded.until, awake = CASE WHEN at >= kept.until THEN excluded.awake ELSE kept.awake END,
      last_awake = coalesce(excluded.last_awake, kept.last_awake),
      object_bytes = excluded.object_bytes, backup_bytes = excluded.backup_bytes
  )
  INSERT INTO agent_platform.meter AS kept
  SELECT tenant, hour, tier, cpu, memory_gib, workspace_gib, coalesce(seconds, 0), coalesce(awake_seconds, 0),
    objects, used, backups,
    coalesce(received_bytes, 0), coalesce(sent_bytes, 0)
  FROM hours FULL JOIN flows USING (tenant, hour) JOIN told USING (tenant)
  LEFT JOIN agent_platform.limits ON schema = 'tenant_' || tenant
  ON CONFLICT (tenant, hour, tier, cpu, memory_gib, workspace_gib) DO UPDATE SET
    seconds = kept.seconds + excluded.seconds,
    awake_seconds = kept.awake_seconds + excluded.awake_seconds,
    object_bytes = coalesce(excluded.object_bytes, kept.object_bytes),
    database_bytes = coalesce(excluded.database_bytes, kept.database_bytes),
    backup_bytes = coalesce(excluded.backup_bytes, kept.backup_bytes),
    received_bytes = kept.received_bytes + excluded.received_bytes,
    sent_bytes = kept.sent_bytes + excluded.sent_bytes;
  WITH over AS (
    DELETE FROM agent_platform.meter WHERE hour < date_trunc('hour', at, 'UTC') RETURNING *
  )
  INSERT INTO agent_platform.ledger SELECT over.*, at FROM over;
  -- A source that is not seen for so long does not come back, and its last counts are counted.
  DELETE FROM agent_platform.counters WHERE seen < at - interval '30 days';
END
$$;
REVOKE ALL ON FUNCTION agent_platform.count_usage FROM PUBLIC;
