// Package guest holds what runs inside a guest before the command does, and
// what shapes its image: small shell scripts, because a shell of busybox starts
// in a tenth of the time of anything else under emulation.
package guest

import _ "embed"

// Init is the first process of the initial RAM disk.
//
//go:embed init
var Init []byte

// Pack makes the initial RAM disk; it runs on the host.
//
//go:embed pack
var Pack []byte

// Trim removes from the image of Debian what no test needs and what would
// disturb one; mmdebstrap runs it with the new root as its argument.
//
//go:embed trim
var Trim []byte

// Command is the first process of Debian in run mode and the service in systemd
// mode: it runs the command and turns the guest off.
//
//go:embed command
var Command []byte

// Service and Target start Command under systemd after a complete boot.
//
//go:embed lab.service
var Service []byte

// Target is what the guest boots to under systemd.
//
//go:embed lab.target
var Target []byte
