// What the files that know Python share.
#pragma once

#include "lcg.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

template <typename T> using array_t = py::array_t<T, py::array::c_style | py::array::forcecast>;

std::string shape_text(const py::array & values);

// Throws unless it is a flat array of n elements.
void check_shape(const py::array & values, size_t n, const char * name);

void bind_rows(py::module_ & m);
