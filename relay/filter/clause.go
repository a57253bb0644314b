package filter

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// A clause says that what a path leads to is one of some literals.
type clause struct {
	path
	literals []literal
	number   int32 // of the path in its filter's tree, for a path into value
}

func (c *clause) matches(s *scalar) bool {
	for i := range c.literals {
		if c.literals[i].equals(s) {
			return true
		}
	}
	return false
}

// matchesHead is matches for a path that does not lead into value.
func (c *clause) matchesHead(r *Record) bool {
	var s scalar
	switch c.root {
	case inKey:
		s = textScalar(r.r.Key)
	case inHeader:
		s = r.header(c.names[0])
	case inAnyHeader:
		for i := range r.r.Headers {
			if h := &r.r.Headers[i]; h.Key == c.names[0] {
				if s = textScalar(h.Value); c.matches(&s) {
					return true
				}
			}
		}
		return false
	}
	return c.matches(&s)
}

// before is the rule by which the clause for an index is chosen: key, then
// headers, then the deepest path into value, as what tells most records apart;
// true, false and null tell few apart.
func (c *clause) before(o *clause) bool {
	if a, b := c.coarse(), o.coarse(); a != b {
		return b
	}
	if c.root != o.root {
		return c.root < o.root
	}
	if len(c.names) != len(o.names) {
		return len(c.names) > len(o.names)
	}
	return slices.Compare(c.names, o.names) < 0
}

func (c *clause) coarse() bool {
	return slices.ContainsFunc(c.literals, func(l literal) bool { return l.kind <= isBool })
}

// clauseOf reads an expression in canonical form as a clause.
func clauseOf(e ast.Expr) (c clause, ok bool) {
	list := e
	if isCall(e, anyHeader) {
		args := e.AsCall().Args()
		name, isName := stringOf(args[1])
		if !isName || args[0].Kind() != ast.IdentKind || !isLiterals(args[2]) {
			return c, false
		}
		c.path, list = path{inAnyHeader, []string{name}}, args[2]
	} else {
		left, literals, ok := membership(e)
		if !ok {
			return c, false
		}
		if c.path, ok = pathOf(left); !ok {
			return c, false
		}
		list = literals
	}
	for _, e := range list.AsList().Elements() {
		l, ok := literalOf(e.AsLiteral())
		if !ok {
			return c, false
		}
		c.literals = append(c.literals, l)
	}
	return c, true
}

// pathOf reads an expression in canonical form as a path.
func pathOf(e ast.Expr) (p path, ok bool) {
	var names []string
	for {
		switch {
		case e.Kind() == ast.SelectKind:
			names = append(names, e.AsSelect().FieldName())
			e = e.AsSelect().Operand()
		case isCall(e, operators.Index):
			name, ok := stringOf(e.AsCall().Args()[1])
			if !ok {
				return p, false
			}
			names = append(names, name)
			e = e.AsCall().Args()[0]
		case e.Kind() == ast.IdentKind:
			slices.Reverse(names)
			switch name := e.AsIdent(); {
			case name == "key" && len(names) == 0:
				return path{root: inKey}, true
			case name == "headers" && len(names) == 1:
				return path{inHeader, names}, true
			case name == "value":
				return path{inValue, names}, true
			}
			return p, false
		default:
			return p, false
		}
	}
}

// partitionsOf reads an expression in canonical form as a list of partitions.
func partitionsOf(e ast.Expr) (partitions []int32, ok bool) {
	left, list, ok := membership(e)
	if !ok || left.Kind() != ast.IdentKind || left.AsIdent() != "partition" {
		return nil, false
	}
	partitions = []int32{} // none, if no partition has such a number
	for _, e := range list.AsList().Elements() {
		n, ok := e.AsLiteral().(types.Int)
		if !ok {
			return nil, false
		}
		if n >= 0 && int64(n) == int64(int32(n)) {
			partitions = append(partitions, int32(n))
		}
	}
	slices.Sort(partitions)
	return partitions, true
}
