package filter

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// exprs makes expressions. It has no state.
var exprs = ast.NewExprFactory()

// A canon brings expressions into the one form that all of equal meaning have,
// as far as we see that they are equal. It knows no macros: has and exists are
// calls to it.
//
// Operands of && and || change places freely, since CEL's do not depend on the
// order, errors included. Constants are folded only where a bool is wanted,
// because there an operand that is none is an error in either form.
type canon struct {
	claims  map[string]any // nil: claims is no name
	visible []string       // headers that may be seen; nil: all
	err     error
}

func literalExpr(v ref.Val) ast.Expr { return exprs.NewLiteral(0, v) }

// expr returns e in canonical form. wantBool says that e stands where anything
// but a bool is an error.
func (c *canon) expr(e ast.Expr, wantBool bool) ast.Expr {
	if v, ok := c.claim(e); ok {
		return unwrapBool(c.claimExpr(v), wantBool)
	}
	switch e.Kind() {
	case ast.IdentKind:
		name := strings.TrimPrefix(e.AsIdent(), ".")
		if name == "headers" && c.visible != nil {
			if len(c.visible) > 0 {
				c.fail("headers can be used by name only here, as headers.%s", c.visible[0])
			}
			return exprs.NewMap(0, nil)
		}
		return exprs.NewIdent(0, name)
	case ast.SelectKind:
		s := e.AsSelect()
		return c.member(s.Operand(), s.FieldName(), false)
	case ast.CallKind:
		return c.call(e.AsCall(), wantBool)
	case ast.ListKind:
		return exprs.NewList(0, c.all(e.AsList().Elements()), nil)
	case ast.MapKind:
		var entries []ast.EntryExpr
		for _, entry := range e.AsMap().Entries() {
			m := entry.AsMapEntry()
			entries = append(entries, exprs.NewMapEntry(0, c.expr(m.Key(), false), c.expr(m.Value(), false), false))
		}
		return exprs.NewMap(0, entries)
	}
	return e
}

func (c *canon) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *canon) all(list []ast.Expr) []ast.Expr {
	out := make([]ast.Expr, len(list))
	for i, e := range list {
		out[i] = c.expr(e, false)
	}
	return out
}

// identifier is a member that can be written behind a dot, which x["in"] cannot.
var identifier = regexp.MustCompile(`^[A-Za-z_][0-9A-Za-z_]*$`)

func isIdentifier(name string) bool {
	switch name {
	case "true", "false", "null", "in":
		return false
	}
	return identifier.MatchString(name)
}

// member is operand.name or operand["name"], which are the same but within has.
func (c *canon) member(operand ast.Expr, name string, inHas bool) ast.Expr {
	if c.visible != nil && operand.Kind() == ast.IdentKind && strings.TrimPrefix(operand.AsIdent(), ".") == "headers" {
		if !slices.Contains(c.visible, name) {
			return selected(exprs.NewMap(0, nil), name, inHas)
		}
		return selected(exprs.NewIdent(0, "headers"), name, inHas)
	}
	if m, ok := c.claim(operand); ok {
		if _, isMap := m.(map[string]any); isMap {
			m = map[string]any{} // claim has seen that there is no such member
		}
		return selected(c.claimExpr(m), name, inHas)
	}
	return selected(c.expr(operand, false), name, inHas)
}

func selected(operand ast.Expr, name string, inHas bool) ast.Expr {
	if inHas || isIdentifier(name) {
		return exprs.NewSelect(0, operand, name)
	}
	return exprs.NewCall(0, operators.Index, operand, literalExpr(types.String(name)))
}

func (c *canon) call(call ast.CallExpr, wantBool bool) ast.Expr {
	name, args := call.FunctionName(), call.Args()
	if call.IsMemberFunction() {
		return exprs.NewMemberCall(0, name, c.expr(call.Target(), false), c.all(args)...)
	}
	switch name {
	case operators.LogicalAnd, operators.LogicalOr:
		return c.logical(name, args, wantBool)
	case operators.LogicalNot:
		e := c.expr(args[0], true)
		if b, ok := boolOf(e); ok {
			return literalExpr(types.Bool(!b))
		}
		return exprs.NewCall(0, name, e)
	case operators.Conditional:
		if b, ok := boolOf(c.expr(args[0], true)); ok {
			if b {
				return c.expr(args[1], wantBool)
			}
			return c.expr(args[2], wantBool)
		}
		return exprs.NewCall(0, name, c.expr(args[0], true), c.expr(args[1], wantBool), c.expr(args[2], wantBool))
	case operators.Equals, operators.NotEquals:
		return c.equality(name, c.expr(args[0], false), c.expr(args[1], false))
	case operators.In:
		return c.in(c.expr(args[0], false), c.expr(args[1], false))
	case operators.Greater:
		return exprs.NewCall(0, operators.Less, c.expr(args[1], false), c.expr(args[0], false))
	case operators.GreaterEquals:
		return exprs.NewCall(0, operators.LessEquals, c.expr(args[1], false), c.expr(args[0], false))
	case operators.Index:
		if s, ok := stringOf(args[1]); ok {
			return c.member(args[0], s, false)
		}
	case operators.Has:
		if args[0].Kind() == ast.SelectKind {
			s := args[0].AsSelect()
			if v, ok := c.claim(s.Operand()); ok {
				if m, ok := v.(map[string]any); ok {
					_, has := m[s.FieldName()]
					return literalExpr(types.Bool(has))
				}
			}
			return exprs.NewCall(0, name, c.member(s.Operand(), s.FieldName(), true))
		}
	case anyHeader:
		return c.anyHeader(args)
	case "dyn":
		return unwrapBool(exprs.NewCall(0, name, c.all(args)...), wantBool)
	}
	return exprs.NewCall(0, name, c.all(args)...)
}

func stringOf(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func boolOf(e ast.Expr) (value, ok bool) {
	if e.Kind() != ast.LiteralKind {
		return false, false
	}
	b, ok := e.AsLiteral().(types.Bool)
	return bool(b), ok
}

// undyn takes dyn() off an expression.
func undyn(e ast.Expr) ast.Expr {
	for e.Kind() == ast.CallKind && e.AsCall().FunctionName() == "dyn" && !e.AsCall().IsMemberFunction() {
		e = e.AsCall().Args()[0]
	}
	return e
}

// unwrapBool takes dyn() off a bool that stands where one is wanted.
func unwrapBool(e ast.Expr, wantBool bool) ast.Expr {
	if _, ok := boolOf(undyn(e)); ok && wantBool {
		return undyn(e)
	}
	return e
}

// logical is && or ||: flat, sorted, without repeats, and without what cannot
// change the result.
func (c *canon) logical(op string, args []ast.Expr, wantBool bool) ast.Expr {
	return joinLogical(op, c.operands(nil, op, args), wantBool)
}

func (c *canon) operands(dst []ast.Expr, op string, args []ast.Expr) []ast.Expr {
	for _, e := range args {
		if isCall(e, op) {
			dst = c.operands(dst, op, e.AsCall().Args())
			continue
		}
		if e = c.expr(e, true); isCall(e, op) {
			dst = append(dst, flatten(nil, op, e)...)
			continue
		}
		dst = append(dst, e)
	}
	return dst
}

// flatten appends the operands of nested && or ||.
func flatten(dst []ast.Expr, op string, e ast.Expr) []ast.Expr {
	if !isCall(e, op) {
		return append(dst, e)
	}
	for _, arg := range e.AsCall().Args() {
		dst = flatten(dst, op, arg)
	}
	return dst
}

func isCall(e ast.Expr, op string) bool {
	return e.Kind() == ast.CallKind && e.AsCall().FunctionName() == op && !e.AsCall().IsMemberFunction()
}

func joinLogical(op string, operands []ast.Expr, wantBool bool) ast.Expr {
	decides := op == operators.LogicalOr // the operand that does
	if decides {
		operands = joinLists(operands)
	}
	byText := map[string]ast.Expr{}
	for _, e := range operands {
		if b, ok := boolOf(e); ok {
			if b == decides {
				return literalExpr(types.Bool(decides))
			}
			continue
		}
		byText[text(e)] = e
	}
	sorted := slices.Sorted(maps.Keys(byText))
	if len(sorted) == 0 {
		return literalExpr(types.Bool(!decides))
	}
	e := byText[sorted[0]]
	if len(sorted) == 1 && !wantBool {
		// Alone it would no longer have to be a bool.
		return exprs.NewCall(0, op, e, literalExpr(types.Bool(!decides)))
	}
	for _, next := range sorted[1:] {
		e = exprs.NewCall(0, op, e, byText[next])
	}
	return e
}

// joinLists makes one "in" of the alternatives to one expression.
func joinLists(operands []ast.Expr) []ast.Expr {
	if len(operands) < 2 {
		return operands
	}
	type group struct{ left, list ast.Expr }
	var order []string
	groups := map[string]*group{}
	var out []ast.Expr
	for _, e := range operands {
		left, list, ok := membership(e)
		if !ok {
			out = append(out, e)
			continue
		}
		key := text(left)
		g := groups[key]
		if g == nil {
			groups[key] = &group{left, list}
			order = append(order, key)
			continue
		}
		g.list = exprs.NewList(0, slices.Concat(g.list.AsList().Elements(), list.AsList().Elements()), nil)
	}
	for _, key := range order {
		out = append(out, in(groups[key].left, groups[key].list))
	}
	return out
}

// membership takes "x == literal" or "x in [literals]" apart.
func membership(e ast.Expr) (left, list ast.Expr, ok bool) {
	if e.Kind() != ast.CallKind || e.AsCall().IsMemberFunction() {
		return nil, nil, false
	}
	args := e.AsCall().Args()
	switch e.AsCall().FunctionName() {
	case operators.Equals:
		if args[0].Kind() != ast.LiteralKind && args[1].Kind() == ast.LiteralKind {
			return args[0], exprs.NewList(0, args[1:], nil), true
		}
	case operators.In:
		if args[0].Kind() != ast.LiteralKind && isLiterals(args[1]) {
			return args[0], args[1], true
		}
	}
	return nil, nil, false
}

func isLiterals(e ast.Expr) bool {
	return e.Kind() == ast.ListKind && !slices.ContainsFunc(e.AsList().Elements(), func(e ast.Expr) bool { return e.Kind() != ast.LiteralKind })
}

// equality is == or !=, with the literal on the right.
func (c *canon) equality(op string, a, b ast.Expr) ast.Expr {
	if ua, ub := undyn(a), undyn(b); ua.Kind() == ast.LiteralKind && ub.Kind() == ast.LiteralKind {
		return literalExpr(types.Bool((ua.AsLiteral().Equal(ub.AsLiteral()) == types.True) == (op == operators.Equals)))
	}
	// A record's fields are of any type already.
	if isField(a) {
		b = undynLiteral(b)
	}
	if isField(b) {
		a = undynLiteral(a)
	}
	aIs, bIs := a.Kind() == ast.LiteralKind, b.Kind() == ast.LiteralKind
	if aIs && !bIs || aIs == bIs && text(a) > text(b) {
		a, b = b, a
	}
	return exprs.NewCall(0, op, a, b)
}

func undynLiteral(e ast.Expr) ast.Expr {
	if u := undyn(e); u.Kind() == ast.LiteralKind || isLiterals(u) {
		return u
	}
	return e
}

// isField reports whether e is a field of a record that may be of any type.
func isField(e ast.Expr) bool {
	_, ok := pathOf(e)
	return ok
}

func (c *canon) in(e, list ast.Expr) ast.Expr {
	if isField(e) {
		list = undynLiteral(list)
	}
	if u, l := undyn(e), undyn(list); u.Kind() == ast.LiteralKind && isLiterals(l) {
		found := slices.ContainsFunc(l.AsList().Elements(), func(e ast.Expr) bool { return u.AsLiteral().Equal(e.AsLiteral()) == types.True })
		return literalExpr(types.Bool(found))
	}
	return in(e, list)
}

// in sorts the literals of a list, and makes an equality of a single one.
func in(e, list ast.Expr) ast.Expr {
	if !isLiterals(list) {
		return exprs.NewCall(0, operators.In, e, list)
	}
	literals := sortLiterals(list.AsList().Elements())
	if len(literals) == 1 {
		return exprs.NewCall(0, operators.Equals, e, literals[0])
	}
	return exprs.NewCall(0, operators.In, e, exprs.NewList(0, literals, nil))
}

func sortLiterals(list []ast.Expr) []ast.Expr {
	byText := map[string]ast.Expr{}
	for _, e := range list {
		byText[text(e)] = e
	}
	sorted := make([]ast.Expr, 0, len(byText))
	for _, key := range slices.Sorted(maps.Keys(byText)) {
		sorted = append(sorted, byText[key])
	}
	return sorted
}

func (c *canon) anyHeader(args []ast.Expr) ast.Expr {
	headers, list := args[0], c.expr(args[2], false)
	if isLiterals(list) {
		list = exprs.NewList(0, sortLiterals(list.AsList().Elements()), nil)
	}
	name, isName := stringOf(args[1])
	if c.visible != nil && isName && headers.Kind() == ast.IdentKind && strings.TrimPrefix(headers.AsIdent(), ".") == "headers" {
		if !slices.Contains(c.visible, name) {
			return literalExpr(types.False)
		}
		headers = exprs.NewIdent(0, "headers")
	} else {
		headers = c.expr(headers, false)
	}
	return exprs.NewCall(0, anyHeader, headers, c.expr(args[1], false), list)
}

// claim returns the claim that e names.
func (c *canon) claim(e ast.Expr) (any, bool) {
	if c.claims == nil {
		return nil, false
	}
	var operand, by ast.Expr
	var name string
	switch {
	case e.Kind() == ast.IdentKind:
		return c.claims, strings.TrimPrefix(e.AsIdent(), ".") == claimsName
	case e.Kind() == ast.SelectKind:
		operand, name = e.AsSelect().Operand(), e.AsSelect().FieldName()
	case isCall(e, operators.Index):
		operand, by = e.AsCall().Args()[0], e.AsCall().Args()[1]
	default:
		return nil, false
	}
	of, ok := c.claim(operand)
	if !ok {
		return nil, false
	}
	if by != nil && by.Kind() == ast.LiteralKind {
		switch by := by.AsLiteral().(type) {
		case types.String:
			name = string(by)
		case types.Int:
			list, ok := of.([]any)
			if !ok || by < 0 || int64(by) >= int64(len(list)) {
				return nil, false
			}
			return list[by], true
		default:
			return nil, false
		}
	} else if by != nil {
		return nil, false
	}
	m, ok := of.(map[string]any)
	if !ok {
		return nil, false
	}
	v, ok := m[name]
	return v, ok
}

// claimExpr writes a claim down. It may be of any type to the expression around
// it, whoever asks.
func (c *canon) claimExpr(v any) ast.Expr {
	return exprs.NewCall(0, "dyn", c.claimLiteral(v))
}

func (c *canon) claimLiteral(v any) ast.Expr {
	switch v := v.(type) {
	case nil:
		return literalExpr(types.NullValue)
	case bool:
		return literalExpr(types.Bool(v))
	case string:
		return literalExpr(types.String(strings.ToValidUTF8(v, "\ufffd")))
	case json.Number:
		s := numberOf([]byte(v))
		if math.IsInf(toDouble(s.kind, s.bits), 0) {
			c.fail("a claim is %s, which is too large a number", v)
		}
		return literalExpr(s.val())
	case float64:
		if math.Abs(v) < 1<<53 && v == math.Trunc(v) {
			return literalExpr(types.Int(v))
		}
		return literalExpr(types.Double(v))
	case int:
		return literalExpr(types.Int(v))
	case int64:
		return literalExpr(types.Int(v))
	case []any:
		list := make([]ast.Expr, len(v))
		for i, e := range v {
			list[i] = c.claimLiteral(e)
		}
		return exprs.NewList(0, list, nil)
	case map[string]any:
		var entries []ast.EntryExpr
		for _, name := range slices.Sorted(maps.Keys(v)) {
			entries = append(entries, exprs.NewMapEntry(0, literalExpr(types.String(strings.ToValidUTF8(name, "\ufffd"))), c.claimLiteral(v[name]), false))
		}
		return exprs.NewMap(0, entries)
	}
	c.fail("a claim is of type %T", v)
	return literalExpr(types.NullValue)
}
