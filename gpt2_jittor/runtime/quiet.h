// A stream buffer for std::cerr that drops the progress of Jittor's compiler and passes on whatever else is said.
// Jittor's compiling threads write there, too, without Python's lock: nothing here may call Python.
#include <iostream>
#include <mutex>
#include <string>
#include <unistd.h>

class Quiet : public std::streambuf {
    std::mutex mutex;
    std::string line;

    void pass_on() {
        const bool chatter = line.find("Compiling Operators(") != std::string::npos;
        const bool blank = line.find_first_not_of(" \t\r\n") == std::string::npos;
        for (size_t sent = 0; !chatter && !blank && sent < line.size();) {
            const ssize_t more = write(STDERR_FILENO, line.data() + sent, line.size() - sent);
            if (more <= 0) break;
            sent += more;
        }
        line.clear();
    }

    std::streamsize xsputn(const char* text, std::streamsize n) override {
        const std::lock_guard<std::mutex> guard(mutex);
        for (std::streamsize i = 0; i < n; i++) {
            line += text[i];
            if (text[i] == '\n' || text[i] == '\r') pass_on();
        }
        return n;
    }

    int overflow(int c) override {
        const char text = traits_type::to_char_type(c);
        if (!traits_type::eq_int_type(c, traits_type::eof())) xsputn(&text, 1);
        return traits_type::not_eof(c);
    }
};

static void quieten() {
    static Quiet* const quiet = new Quiet;  // for good: others write while the process ends
    std::cerr.rdbuf(quiet);
}
