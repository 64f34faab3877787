package place

import (
	"cmp"
	"slices"

	"github.com/napitune/napitune/detect/topo"
)

// littleCapacity is what a CPU of the slower kind of a hybrid processor takes,
// as a share of the others: a Cortex-A53 beside an A72 is rated 485 of 1024
// (capacity-dmips-mhz in arch/arm64/boot/dts/rockchip/rk3399.dtsi).
const littleCapacity = 0.5

// On is a CPU of a host as the solver sees it, without load: a CPU that the
// topology does not know is a core of its own, and nodes count only where the
// host's are to be trusted.
func On(t *topo.Topology, id int) CPU {
	cpu := CPU{ID: id, Core: id, LLC: topo.Unknown, Node: topo.Unknown}
	known, ok := t.CPUs[id]
	if !ok {
		return cpu
	}
	if known.Core != topo.Unknown {
		cpu.Core = known.Core
	}
	cpu.LLC = known.LLC
	if t.NUMATrusted() {
		cpu.Node = known.Node
	}
	if t.LittleCPUs().Has(id) {
		cpu.Capacity = littleCapacity
	}
	return cpu
}

// Orderly exchanges the CPUs of items that are alike in everything that counts,
// so that the lowest queue stays where it is and the others follow in the
// order of CPUs: people expect queue 2 on CPU 2.
func Orderly(items []Item, cpu []int) {
	type kin struct {
		group         string
		load          float64
		current, node int
	}
	alike := map[kin][]int{}
	for i, item := range items {
		if cpu[i] >= 0 {
			k := kin{item.Group, item.Load, item.Current, item.Node}
			alike[k] = append(alike[k], i)
		}
	}
	for k, members := range alike {
		slices.SortFunc(members, func(a, b int) int { return cmp.Compare(items[a].ID, items[b].ID) })
		var cpus []int
		for _, i := range members {
			cpus = append(cpus, cpu[i])
		}
		slices.SortFunc(cpus, func(a, b int) int {
			return cmp.Or(-cmp.Compare(stays(a, k.current), stays(b, k.current)), cmp.Compare(a, b))
		})
		for n, i := range members {
			cpu[i] = cpus[n]
		}
	}
}

func stays(cpu, current int) int {
	if cpu == current {
		return 1
	}
	return 0
}
