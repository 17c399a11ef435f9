// Package tap stands for the one library of runtime-tools that Debian has no package of, github.com/mndrix/tap-go:
// the same lines for the same calls.
package tap

import (
	"encoding/json"
	"fmt"
	"strings"
)

type T struct {
	count *int
	todo  bool
}

func New() *T { return &T{count: new(int)} }

func (t *T) Header(count int) {
	fmt.Println("TAP version 13")
	if count > 0 {
		fmt.Printf("1..%d\n", count)
	}
}

func (t *T) AutoPlan() { fmt.Printf("1..%d\n", *t.count) }

func (t *T) Ok(good bool, what string) {
	*t.count++
	ok, dash := "ok", "-"
	if !good {
		ok = "not ok"
	}
	if t.todo {
		dash = "# TODO"
	}
	fmt.Println(ok, *t.count, dash, what)
}

func (t *T) Pass(what string) { t.Ok(true, what) }

func (t *T) Fail(what string) { t.Ok(false, what) }

func (t *T) Todo() *T { return &T{t.count, true} }

func (t *T) Skip(count int, why string) {
	for ; count > 0; count-- {
		*t.count++
		fmt.Println("ok", *t.count, "# SKIP", why)
	}
}

func (t *T) Diagnostic(text string) {
	fmt.Println("# " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n# "))
}

func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML prints JSON, as the original does.
func (t *T) YAML(value interface{}) error {
	text, err := json.MarshalIndent(value, "  ", "  ")
	if err == nil {
		fmt.Printf("  ---\n  %s\n  ...\n", text)
	}
	return err
}
