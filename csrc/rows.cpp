// Work on rows of logits, shared out to threads; what S and H hold at steps of given texts.
#include "rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>

namespace lcg {

void for_each_row(size_t n_rows, size_t n_threads, const std::function<row_work()> & make_work) {
    std::atomic<size_t> next{0};
    std::mutex          lock;
    std::exception_ptr  error;
    size_t              error_row = n_rows;
    const auto          run       = [&] {
        size_t row = n_rows;
        try {
            const row_work work = make_work();
            while ((row = next++) < n_rows) {
                work(row);
            }
        } catch (...) {
            // rows before this one are done or in work: one that is bad as well will still come here
            const std::lock_guard<std::mutex> guard(lock);
            next = n_rows;
            if (!error || row < error_row) {
                error     = std::current_exception();
                error_row = row;
            }
        }
    };
    if (n_threads == 0) {
        n_threads = std::max(std::thread::hardware_concurrency(), 1u);
    }
    std::vector<std::thread> threads;
    try {
        while (threads.size() + 1 < std::min(n_threads, n_rows)) {
            threads.emplace_back(run);
        }
    } catch (const std::exception &) {
        // no more threads are to be had: those that are there will do
    }
    run();
    for (std::thread & thread : threads) {
        thread.join();
    }
    if (error) {
        std::rethrow_exception(error);
    }
}

void check_row(const float * logits, size_t n_vocab, size_t row) {
    bool counts = false;
    for (size_t i = 0; i < n_vocab; i++) {
        counts = counts || logits[i] > -INFINITY;
        if (!(logits[i] < INFINITY)) {
            throw gate_error("`logits` is " + std::to_string(logits[i]) + " in row " + std::to_string(row) +
                             " at token " + std::to_string(i) + ", expected a finite number or -inf");
        }
    }
    if (!counts) {
        throw gate_error(
            "`logits` is -inf at every token of row " + std::to_string(row) + ", expected one that is finite");
    }
}

void read_steps(const logit_rows & rows, const step_options & options, size_t n_threads, const step_results & results) {
    for_each_row(rows.n, n_threads, [&] {
        struct memory {
            std::vector<uint32_t>   order;
            std::vector<token_data> best;
        };
        return [&, memory = std::make_shared<memory>()](size_t row) {
            const float * logits = rows.data + row * rows.n_vocab;
            auto & [order, best] = *memory;
            if (!select_top(logits, rows.n_vocab, results.n_best, order) || logits[order.front()] == -INFINITY) {
                check_row(logits, rows.n_vocab, row);
            }
            best.clear();
            for (size_t i = 0; i < order.size(); i++) {
                best.push_back({static_cast<int32_t>(order[i]), logits[order[i]], 0.0f});
                results.ids[row * results.n_best + i]  = best[i].id;
                results.best[row * results.n_best + i] = best[i].logit;
            }
            const float  largest       = best[0].logit;
            const double sum           = softmax_sum(logits, rows.n_vocab, largest, options.temperature);
            const double confident_sum = options.confident_at == options.temperature
                                             ? sum
                                             : softmax_sum(logits, rows.n_vocab, largest, options.confident_at);
            results.log_sum[row] =
                static_cast<double>(largest) / static_cast<double>(options.temperature) + std::log(sum);
            results.n_survivors[row] =
                static_cast<int32_t>(survivor_count(best.data(), best.size(), options.top_k, options.top_p));
            results.n_confident[row] = static_cast<int32_t>(
                confident_count(best.data(), best.size(), options.confidence, options.confident_at, confident_sum));
        };
    });
}

} // namespace lcg
