package probes

// The objects are built for the oldest instruction set that the oldest
// supported kernel (4.18) knows, and for little-endian machines only: amd64
// and arm64 share them. They are committed with the Go files around them, so
// that building needs only Go. sourcesum records the compiler in CLANG and the
// digests of sources and objects in SUM, which a test compares.

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Werror -mcpu=v2" -type cpu_state -type napi_slot -type virtio_slot -type irq_slot core bpf/core.bpf.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Werror -mcpu=v2" -type gro_slot -type gro_state gro bpf/gro.bpf.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Werror -mcpu=v2" -type drop_state drops bpf/drops.bpf.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Werror -mcpu=v2" -type latency_state latency bpf/latency.bpf.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Werror -mcpu=v2" -type control_state control bpf/control.bpf.c
//go:generate go run ./sourcesum -cc clang
