package place

import "math"

// maxGroups bounds the work of the lower bound on hosts with many devices.
const maxGroups = 16

// lowerBound is a load that the busiest serving core cannot get below as long
// as items stay on their own node or off it as they are. For each set of items with
// the same choice of CPUs it takes the larger of: the lightest place for the
// heaviest item, all the load spread like water, and the pigeonhole.
func (s *state) lowerBound() float64 {
	type choice struct {
		class, node int
		away        bool
	}
	groups := map[choice][]int{}
	var order []choice
	var busy []int
	for i, c := range s.at {
		if c == none || s.items[i].idle {
			continue
		}
		busy = append(busy, i)
		key := choice{s.items[i].class, s.items[i].node, s.away(i, c)}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], i)
	}
	bound := 0.0
	for _, key := range order[:min(len(order), maxGroups)] {
		bound = max(bound, s.groupBound(groups[key]))
	}
	if len(order) > 1 {
		bound = max(bound, s.groupBound(busy))
	}
	return bound
}

func (s *state) groupBound(items []int) float64 {
	vessels := s.vessels(items)
	lightest := math.Inf(1)
	heaviest := items[0]
	for c := range s.cpus {
		if s.mayStay(heaviest, c) {
			lightest = min(lightest, s.alone(heaviest, c))
		}
	}
	return max(lightest, s.water(items, vessels), s.pigeonhole(items, vessels))
}

// mayStay reports whether the CPU is on the same side of the node boundary as
// the item's place.
func (s *state) mayStay(i, c int) bool {
	return s.may(i, c) && s.away(i, c) == s.away(i, s.at[i])
}

func (s *state) alone(i, c int) float64 {
	k := s.cpus[c].core
	var sum int64
	for _, t := range s.cores[k].threads {
		sum += s.cpus[t].base
	}
	own := s.cpus[c].base + s.cost(i, c)
	load := max(float64(own)/s.cpus[c].capacity, float64(sum+s.cost(i, c))/s.cores[k].share)
	return load / unit
}

// vessel is what one core can take: threads open to the items, their summed
// capacity and base, and the base of the core.
type vessel struct {
	threads        int
	capacity, base float64
	fastest        float64 // capacity of the fastest open thread
	share, coreAll float64
}

func (s *state) vessels(items []int) []vessel {
	open := make([]bool, len(s.cpus))
	seen := map[[3]int]bool{}
	for _, i := range items {
		key := [3]int{s.items[i].class, s.items[i].node, int(bit(s.away(i, s.at[i])))}
		if seen[key] {
			continue
		}
		seen[key] = true
		for c := range open {
			open[c] = open[c] || s.mayStay(i, c)
		}
	}
	var out []vessel
	for k := range s.cores {
		v := vessel{share: s.cores[k].share}
		for _, t := range s.cores[k].threads {
			base := float64(s.cpus[t].base) / unit
			v.coreAll += base
			if open[t] {
				v.threads++
				v.capacity += s.cpus[t].capacity
				v.fastest = max(v.fastest, s.cpus[t].capacity)
				v.base += base
			}
		}
		if v.threads > 0 {
			out = append(out, v)
		}
	}
	return out
}

// takes bounds from above what the core can take of the items without getting
// busier than level.
func (v vessel) takes(level float64) float64 {
	return max(0, min(v.share*level-v.coreAll, v.capacity*level-v.base))
}

func (s *state) water(items []int, vessels []vessel) float64 {
	total := 0.0
	for _, i := range items {
		total += float64(s.cost(i, s.at[i])) / unit
	}
	low, high := 0.0, 0.0
	for _, v := range vessels {
		high = max(high, (total+v.coreAll)/v.share, (total+v.base)/v.capacity)
	}
	const halvings = 50
	for range halvings {
		level := (low + high) / 2
		sum := 0.0
		for _, v := range vessels {
			sum += v.takes(level)
		}
		// The margin keeps rounding from lifting the bound over the truth.
		if sum < total*(1-1e-12) {
			low = level
		} else {
			high = level
		}
	}
	return low
}

// pigeonhole: of n·cores+1 items, some core serves n+1.
func (s *state) pigeonhole(items []int, vessels []vessel) float64 {
	share, threads, speed := 0.0, 1, 0.0
	for _, v := range vessels {
		share = max(share, v.share)
		threads = max(threads, v.threads)
		speed = max(speed, v.fastest)
	}
	bound := 0.0
	for n := 0; n*len(vessels) < len(items); n++ {
		load := float64(s.items[items[n*len(vessels)]].load) / unit
		onThread := (n + threads) / threads // of n+1 items, rounded up
		bound = max(bound, float64(n+1)*load/share, float64(onThread)*load/speed)
	}
	return bound
}
