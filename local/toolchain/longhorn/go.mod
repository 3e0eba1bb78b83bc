module agent-platform.local/toolchain/longhorn

go 1.26

require github.com/longhorn/longhorn-manager v1.9.0
