"""The tables agents, agent_memory and execution_logs, behind row-level security."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, owned by the role that runs this, and open to it alone."""
    op.create_table(
        "agents",
        sa.Column("id", UUID, primary_key=True, server_default=sa.func.gen_random_uuid()),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("configuration", JSONB, nullable=False, server_default="{}"),
        _moment("created_at"),
        _moment("updated_at"),
        if_not_exists=True,
    )
    op.create_table(
        "agent_memory",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("agent_id", UUID, sa.ForeignKey("agents.id", ondelete="CASCADE"), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", JSONB, nullable=False),
        _moment("created_at"),
        _moment("updated_at"),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("agent_id", "key"),
        if_not_exists=True,
    )
    op.create_index(
        "agent_memory_expires_at",
        "agent_memory",
        ["expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL"),
        if_not_exists=True,
    )
    op.create_table(
        "execution_logs",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        # What was done stays on record when the agent that did it is gone.
        sa.Column("agent_id", UUID, sa.ForeignKey("agents.id", ondelete="SET NULL")),
        sa.Column("status", sa.Text, nullable=False, server_default="running"),
        _moment("started_at"),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("input", JSONB),
        sa.Column("output", JSONB),
        sa.Column("error", sa.Text),
        sa.CheckConstraint("status IN ('running', 'succeeded', 'failed', 'cancelled')", "status_known"),
        sa.CheckConstraint("finished_at >= started_at", "finished_after_start"),
        if_not_exists=True,
    )
    op.create_index("execution_logs_started_at", "execution_logs", ["started_at"], if_not_exists=True)
    op.create_index(
        "execution_logs_agent_id", "execution_logs", ["agent_id", "started_at"], if_not_exists=True
    )
    for table in ("agents", "agent_memory", "execution_logs"):
        # FORCE: for the owner too, so that a grant made by mistake to anybody still shows no row.
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"DROP POLICY IF EXISTS tenant ON {table}")
        op.execute(f"CREATE POLICY tenant ON {table} TO CURRENT_USER USING (true) WITH CHECK (true)")


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
