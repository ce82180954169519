/* text/jinja_eval.h - running a tree: expressions give values, statements write text. */
#pragma once

#include "text/jinja_builtin.h"
#include "text/jinja_parse.h"

/* How a statement ended. */
enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_ERROR };

bool eval(struct run *run, const struct node *node, struct value *result);
/* Filters of a set or filter block, applied to the block's text. */
bool eval_filters(struct run *run, const struct node *filter, struct value text, struct value *result);
enum flow exec_body(struct run *run, const struct node *body);
bool exec_macro(struct run *run, const struct macro *macro, const struct arguments *arguments, struct value *result);

struct scope *scope_push(struct run *run); /* NULL on failure */
void scope_pop(struct run *run);
bool scope_set(struct run *run, struct str name, struct value value); /* in the innermost scope */
/* Undefined when nobody set it. */
bool scope_get(struct run *run, struct str name, struct value *value);
