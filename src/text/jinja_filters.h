/* text/jinja_filters.h - the filters on rows of values (jinja_rows.c), for the table in jinja_filters.c. */
#pragma once

#include "text/jinja_builtin.h"

builtin_run filter_attr, filter_batch, filter_dictsort, filter_extreme, filter_first, filter_groupby, filter_items,
    filter_join, filter_last, filter_length, filter_list, filter_map, filter_reverse, filter_select, filter_sort,
    filter_sum, filter_unique;
