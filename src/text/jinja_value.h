/* text/jinja_value.h - the values that a template computes with, and the run they belong to.
 *
 * They are Python's: bool is an int, strings count code points, dicts keep their order, a generator is empty once
 * it was read. Lists and dicts are never changed after they are made (the sandbox is immutable); only namespaces,
 * generators, cyclers and joiners have state. Everything lies in the run's arena, and run_alloc, run_charge and the
 * builder hold the budgets: nothing in the interpreter may loop, recurse or allocate without one of them. */
#pragma once

#include "base/json.h"
#include "text/template.h"

enum value_type {
    VALUE_ABSENT, /* an argument that was not given; never seen by a template */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST, /* and whatever else is a row of values: enum list_kind */
    VALUE_DICT,
    VALUE_NAMESPACE,
    VALUE_MACRO,
    VALUE_FUNCTION, /* a builtin, or a method with its receiver */
    VALUE_LOOP,
    VALUE_CYCLER,
    VALUE_JOINER,
};

/* Why something is undefined, for the message when it is used after all. */
enum undefined_kind {
    UNDEFINED_NAME,
    UNDEFINED_ATTRIBUTE,
    UNDEFINED_ELEMENT,
    UNDEFINED_UNSAFE,
    UNDEFINED_ARGUMENT,
    UNDEFINED_NO_ITEM
};

struct value {
    uint8_t type;           /* enum value_type */
    uint8_t undefined_kind; /* VALUE_UNDEFINED */
    uint8_t owner_type;     /* VALUE_UNDEFINED: type of the object that lacks it */
    bool is_markup;         /* VALUE_STRING: marked safe; "+" escapes what is joined to it */
    union {
        bool boolean;
        int64_t integer;
        double number;
        struct str text; /* VALUE_STRING; VALUE_UNDEFINED: the name */
        struct list *list;
        struct dict *dict; /* VALUE_DICT, VALUE_NAMESPACE */
        struct macro *macro;
        struct function *function;
        struct loop *loop;
        struct cycler *cycler;
    };
};

enum list_kind { LIST_LIST, LIST_TUPLE, LIST_GENERATOR, LIST_RANGE, LIST_KEYS, LIST_VALUES, LIST_ITEMS };

struct list {
    enum list_kind kind;
    size_t count;
    struct value *items;
};

struct pair {
    struct value key, value;
};

struct dict {
    size_t count, cap;
    struct pair *pairs; /* in the order of insertion */
};

struct binding {
    struct str name;
    struct value value;
    struct binding *next;
};

/* Names set in one block; inner ones hide outer ones. */
struct scope {
    struct scope *parent;
    struct binding *first;
};

struct macro {
    const struct node *node;
    struct scope *scope; /* where it was defined: names are looked up there when it runs */
};

struct function {
    const struct builtin *builtin;
    struct value receiver;
};

struct loop {
    const struct list *items;
    size_t index; /* from 0 */
    struct value changed;
};

/* {{ cycler.next() }} walks in a circle; a joiner is one with a single item, used from the second call on. */
struct cycler {
    struct list *items;
    size_t at;
};

/* Text under construction. The run's output_bytes bounds each. */
struct builder {
    char *at;
    size_t len, cap;
};

struct run {
    struct arena *arena;
    struct template_limits limits;
    int64_t now;
    uint64_t steps;       /* used so far */
    size_t memory;        /* used so far */
    uint32_t call_depth;  /* macros within each other */
    uint32_t value_depth; /* of a walk through nested values */
    uint32_t line;        /* of the node being evaluated */
    struct scope *scope;
    struct builder *out;  /* where output goes now: the rendering, or a macro's or set block's text */
    struct builder *main; /* the rendering */
    size_t counted_bytes, counted_codepoints; /* prefix of main whose characters are counted */
    struct template_span *spans;
    size_t span_count, span_cap;
    struct err *err;
};

/* Sets the error with the line in front; returns false. */
bool run_fail(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool run_fail_limit(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool run_charge(struct run *run, uint64_t steps);
/* Around each level of a walk through nested values: enter fails when they are nested too deeply. */
bool run_enter(struct run *run);
static inline void run_leave(struct run *run)
{
    run->value_depth--;
}
/* Work over `bytes` of text costs a step per 256. */
bool run_charge_text(struct run *run, size_t bytes);
/* Zeroed; NULL with the error set when the memory budget is used up. */
void *run_alloc(struct run *run, size_t count, size_t size);

bool builder_add(struct run *run, struct builder *builder, struct str text);
bool builder_add_char(struct run *run, struct builder *builder, char c);
struct str builder_view(const struct builder *builder);

static inline struct value value_undefined(enum undefined_kind kind, enum value_type owner, struct str name)
{
    return (struct value){
        .type = VALUE_UNDEFINED, .undefined_kind = (uint8_t)kind, .owner_type = (uint8_t)owner, .text = name};
}
static inline struct value value_none(void)
{
    return (struct value){.type = VALUE_NONE};
}
static inline struct value value_bool(bool boolean)
{
    return (struct value){.type = VALUE_BOOL, .boolean = boolean};
}
static inline struct value value_int(int64_t integer)
{
    return (struct value){.type = VALUE_INT, .integer = integer};
}
static inline struct value value_float(double number)
{
    return (struct value){.type = VALUE_FLOAT, .number = number};
}
static inline struct value value_string(struct str text)
{
    return (struct value){.type = VALUE_STRING, .text = text};
}
static inline struct value value_list(struct list *list)
{
    return (struct value){.type = VALUE_LIST, .list = list};
}
static inline struct value value_dict(struct dict *dict)
{
    return (struct value){.type = VALUE_DICT, .dict = dict};
}

static inline bool value_is_number(struct value value)
{
    return value.type == VALUE_BOOL || value.type == VALUE_INT || value.type == VALUE_FLOAT;
}
/* bool or int */
static inline bool value_is_integer(struct value value)
{
    return value.type == VALUE_BOOL || value.type == VALUE_INT;
}
static inline int64_t value_integer(struct value value)
{
    return value.type == VALUE_BOOL ? value.boolean : value.integer;
}
static inline double value_number(struct value value)
{
    return value.type == VALUE_FLOAT ? value.number : (double)value_integer(value);
}
static inline bool value_is_list(struct value value, enum list_kind kind)
{
    return value.type == VALUE_LIST && value.list->kind == kind;
}

/* Python's name of its type: "str", "NoneType". */
const char *value_type_name(struct value value);
bool value_is_true(struct value value);
/* The error for using something undefined. */
bool value_fail_undefined(struct run *run, struct value value);

struct list *list_new(struct run *run, enum list_kind kind, size_t count);
struct dict *dict_new(struct run *run, size_t cap);
/* Replaces or appends. */
bool dict_set(struct run *run, struct dict *dict, struct value key, struct value value);
/* *found is NULL when the key is absent. */
bool dict_get(struct run *run, const struct dict *dict, struct value key, struct value **found);
bool dict_get_text(struct run *run, const struct dict *dict, struct str key, struct value **found);
struct list *list_pair(struct run *run, struct value first, struct value second);

bool value_from_json(struct run *run, const struct json *json, struct value *value);

#define ORDER_NONE INT32_MAX
bool value_equal(struct run *run, struct value a, struct value b, bool *is_equal);
/* order: below, at or above 0, ORDER_NONE when one is NaN. Fails for types that Python does not order; sign is for its
 * message. */
bool value_compare(struct run *run, struct value a, struct value b, const char *sign, int *order);
bool value_contains(struct run *run, struct value haystack, struct value needle, bool *contains);

/* What iterating over it gives; reading a generator empties it. */
bool value_iterate(struct run *run, struct value value, struct list **items);
bool value_length(struct run *run, struct value value, int64_t *length);
/* a . name and a [ key ] by the sandbox's rules: each falls back to the other; absent is undefined. */
bool value_attribute(struct run *run, struct value object, struct str name, struct value *result);
bool value_item(struct run *run, struct value object, struct value key, struct value *result);
bool value_slice(struct run *run, struct value object, const struct value bounds[3], struct value *result);
bool value_binary(struct run *run, uint16_t op, struct value a, struct value b, struct value *result);
bool value_negate(struct run *run, struct value value, struct value *result);

/* str(), repr() and json.dumps() of a value. */
bool value_print(struct run *run, struct builder *out, struct value value);
bool value_print_repr(struct run *run, struct builder *out, struct value value);
struct json_style {
    bool is_ascii, sorts_keys, has_indent;
    struct str indent, item_separator, key_separator;
};
bool value_print_json(struct run *run, struct builder *out, struct value value, const struct json_style *style);
bool print_escaped(struct run *run, struct builder *out, struct str text); /* & < > ' " as HTML */
/* str() as a view; strings as they are. */
bool value_text(struct run *run, struct value value, struct str *text);
