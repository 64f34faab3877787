//go:build race

package main

// raceSlack is for the race detector, which makes everything 5 to 15 times slower.
const raceSlack = 15
