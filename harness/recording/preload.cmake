# Builds the library that a recorded program is started with and puts it beside recorder.py.
add_library(harness_record SHARED harness/recording/preload.c)
target_compile_features(harness_record PRIVATE c_std_11)
# -fno-builtin: the compiler must not make a call of malloc out of ours, nor drop one. Everything is bound at
# load time, because a lazy binding would take place in whatever signal handler allocates first.
target_compile_options(harness_record PRIVATE -O2 -fvisibility=hidden -fno-builtin-malloc -fno-builtin-calloc
                                              -fno-builtin-realloc -fno-builtin-free -Wall -Wextra -Wconversion)
target_link_options(harness_record PRIVATE -Wl,-z,now -Wl,-z,nodelete)
target_link_libraries(harness_record PRIVATE ${CMAKE_DL_LIBS})
if(HARNESS_WERROR)
  target_compile_options(harness_record PRIVATE -Werror)
endif()
install(TARGETS harness_record LIBRARY DESTINATION harness/recording)
