// What the files that know Python share.
#pragma once

#include "core.h"
#include "text.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

template <typename T> using array_t = py::array_t<T, py::array::c_style | py::array::forcecast>;

std::string shape_text(const py::array & values);

// Throws unless it is a flat array of n elements.
void check_shape(const py::array & values, size_t n, const char * name);

// Throws unless there is one for each family.
void check_thresholds(const lcg::gate_rules & rules, size_t n_families);

template <typename T> T * pointer(uintptr_t address) {
    if (address == 0) {
        throw lcg::gate_error("an object of llama.cpp is null: the model is closed, or was never loaded");
    }
    return reinterpret_cast<T *>(address);
}

// Throws unless the core is connected to llama.cpp.
void require_host();

std::vector<size_t> indices(const lcg::family_set & families);

// (ids, logits)
py::tuple split_tokens(const lcg::token_data * tokens, size_t n);

void bind_rows(py::module_ & m);
void bind_stage(py::module_ & m);
void bind_tap(py::module_ & m);
