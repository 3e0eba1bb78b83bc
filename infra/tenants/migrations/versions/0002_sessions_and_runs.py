"""The tables sessions, session_messages and run_events, and what execution_logs lacks for a run."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSON, JSONB, UUID

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables and columns, owned by the role that runs this, and open to it alone."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("agent_id", UUID, sa.ForeignKey("agents.id", ondelete="CASCADE"), nullable=False),
        # What the agent's conversation consists of besides its messages; null before its first run.
        sa.Column("state", JSON),
        _moment("created_at"),
        _moment("updated_at"),
        if_not_exists=True,
    )
    op.create_index("sessions_agent_id", "sessions", ["agent_id"], if_not_exists=True)
    op.create_table(
        "session_messages",
        sa.Column("session_id", sa.BigInteger, sa.ForeignKey("sessions.id", ondelete="CASCADE")),
        sa.Column("number", sa.Integer),
        # JSON and not JSONB, here and below: a tool may have said a NUL, which JSONB refuses.
        sa.Column("message", JSON, nullable=False),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("session_id", "number"),
        if_not_exists=True,
    )
    for column in (
        # What was done stays on record when the conversation that it was part of is gone.
        sa.Column("session_id", sa.BigInteger, sa.ForeignKey("sessions.id", ondelete="SET NULL")),
        sa.Column("tools", JSONB, nullable=False, server_default="[]"),
        sa.Column("tokens_in", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("tokens_out", sa.BigInteger, nullable=False, server_default="0"),
        # While a run is at work it says so every few seconds; one that says so no longer was cut off.
        sa.Column("seen_at", sa.DateTime(timezone=True)),
        sa.Column("cancelled", sa.Boolean, nullable=False, server_default="false"),
    ):
        op.add_column("execution_logs", column, if_not_exists=True, inline_references=True)
    op.create_index(
        "execution_logs_running",
        "execution_logs",
        ["session_id"],
        # A conversation has one run at a time.
        unique=True,
        postgresql_where=sa.text("status = 'running'"),
        if_not_exists=True,
    )
    op.create_table(
        "run_events",
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("execution_logs.id", ondelete="CASCADE")),
        sa.Column("number", sa.Integer),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "number"),
        if_not_exists=True,
    )
    for table in ("sessions", "session_messages", "run_events"):
        # As in 0001.
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"DROP POLICY IF EXISTS tenant ON {table}")
        op.execute(f"CREATE POLICY tenant ON {table} TO CURRENT_USER USING (true) WITH CHECK (true)")


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
