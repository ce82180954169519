/* text/jinja_parse.h - a template as a tree of nodes in an arena.
 *
 * One struct serves all kinds; the table says which fields a kind uses. Lists (bodies, arguments, items) are chained
 * by `next`. The tree's height is bounded, so the evaluator's recursion over it is. */
#pragma once

#include "text/jinja_value.h"

enum node_kind {
    /* expressions */
    NODE_CONSTANT,         /* constant */
    NODE_NAME,             /* name */
    NODE_LIST,             /* items */
    NODE_TUPLE,            /* items; as a target: names */
    NODE_DICT,             /* items: key, value, key, value … */
    NODE_ATTRIBUTE,        /* left . name */
    NODE_ITEM,             /* left [ right ] */
    NODE_SLICE,            /* left : right : third, each may be NULL; only as right of NODE_ITEM */
    NODE_CALL,             /* left ( items ) */
    NODE_FILTER,           /* left | name ( items ); builtin; left NULL: the text of a block */
    NODE_TEST,             /* left is name ( items ); builtin */
    NODE_UNARY,            /* op '-' or '+', left */
    NODE_BINARY,           /* left op right */
    NODE_COMPARE,          /* left, items: NODE_OPERAND */
    NODE_OPERAND,          /* op, left; OPERATOR_IN and OPERATOR_NOT_IN besides the signs */
    NODE_CONCAT,           /* items joined by ~ */
    NODE_AND,              /* left, right */
    NODE_OR,               /* left, right */
    NODE_NOT,              /* left */
    NODE_CONDITION,        /* left if right else third (may be NULL) */
    NODE_KEYWORD,          /* name = left; among arguments */
    NODE_SPREAD,           /* * left; among arguments */
    NODE_SPREAD_DICT,      /* ** left; among arguments */
    NODE_NAMESPACE_TARGET, /* name . constant(attribute's name) */
    /* statements */
    NODE_DATA,         /* name: the text */
    NODE_OUTPUT,       /* left */
    NODE_IF,           /* items: NODE_BRANCH */
    NODE_BRANCH,       /* left: condition, NULL for else; items: body */
    NODE_FOR,          /* left: target, right: iterable, third: condition or NULL, items: body, otherwise */
    NODE_SET,          /* left: target, right: value */
    NODE_SET_BLOCK,    /* left: target, right: filters or NULL, items: body */
    NODE_FILTER_BLOCK, /* right: filters, items: body */
    NODE_WITH,         /* params: NODE_SET, items: body */
    NODE_MACRO,        /* name, params: NODE_PARAM, items: body, takes_* */
    NODE_PARAM,        /* name, left: default or NULL */
    NODE_GENERATION,   /* items: body */
    NODE_BREAK,
    NODE_CONTINUE,
};

#define OPERATOR_IN     OPERATOR2('i', 'n')
#define OPERATOR_NOT_IN OPERATOR2('n', 'i')

struct node {
    uint8_t kind;                     /* enum node_kind */
    bool takes_varargs, takes_kwargs; /* NODE_MACRO: its body names varargs, kwargs */
    uint16_t op;
    uint32_t line, height;
    struct str name;
    struct value constant;
    const struct builtin *builtin;
    struct node *left, *right, *third;
    struct node *items, *params, *otherwise;
    struct node *next;
};

struct jinja_tree {
    struct node *body;
    bool has_generation;
};

bool jinja_parse(struct arena *arena, struct str source, struct jinja_tree *tree, struct err *err);
