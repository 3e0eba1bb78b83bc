module agent-platform.local/toolchain/alertmanager

go 1.26

require github.com/prometheus/alertmanager v0.35.0
