package main

import (
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
)

func mapCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "map",
		Usage:     "draw the way of packets: device, queue, NAPI, IRQ, CPU, node, with rates",
		ArgsUsage: noArguments,
		Description: "One line per interrupt of a queue: the CPUs it may go to, those it is sent to, and the one where it fired.\n" +
			"SOURCE says how the interrupt of a queue is known; what is ambiguous is unknown, with the reason. With -v and\n" +
			"in-kernel probes there is a line per receive queue as well: packets per poll and, of virtio-net, packets per\n" +
			"interrupt, interrupts that found nothing to do and polls that no interrupt asked for.",
		Flags:  append(sharedFlags(documentFormats()...), windowFlags()...),
		Action: func(c *cli.Context) error { return drawMap(c, e) },
	}
}

func drawMap(c *cli.Context, e env) error {
	o, err := parseOptions(c, e, documentFormats()...)
	if err != nil {
		return err
	}
	m, err := e.Open(o.host)
	if err != nil {
		return err
	}
	result, err := measure(c.Context, e, m, o)
	if err != nil {
		return err
	}
	if err := checkDevices(result.Last, o.devices); err != nil {
		return err
	}
	doc := report.NewMap(result.Observation, o.devices)
	doc.Window.Probes = append(doc.Window.Probes, result.attached()...)
	return printDocument(e, doc, o)
}
