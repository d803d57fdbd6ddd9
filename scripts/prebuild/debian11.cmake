# CMake's toolchain of scripts/prebuild.mjs: this machine's GCC (12 or newer, for its instruction sets) and nvcc, against
# the C and C++ libraries of Debian 11 in MT_SYSROOT. What is linked so asks for glibc 2.31 and for nothing of GCC's.
# GCC looks into the machine's own folders first, hence every folder is named. Of GCC 10 only what depends on glibc is
# linked, which the folder `gcc` holds: its libgcc does not know every processor feature that GCC 12 asks it for.
set(root $ENV{MT_SYSROOT})
set(triple $ENV{MT_TRIPLE}) # such as aarch64-linux-gnu
string(REGEX REPLACE "-.*" "" processor ${triple})
if(NOT processor STREQUAL CMAKE_HOST_SYSTEM_PROCESSOR)
  set(CMAKE_SYSTEM_NAME Linux)
  set(CMAKE_SYSTEM_PROCESSOR ${processor})
endif()
set(CMAKE_CXX_COMPILER ${triple}-g++)
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})

set(own "--sysroot=${root} -nostdinc++")
set(headers "-isystem ${CMAKE_CURRENT_LIST_DIR}/include")
foreach(folder c++/10 ${triple}/c++/10 c++/10/backward ${triple} .)
  string(APPEND headers " -isystem ${root}/usr/include/${folder}")
endforeach()
set(CMAKE_CXX_FLAGS_INIT "${own} ${headers}")
string(REPLACE " " "," own "${own}")
set(CMAKE_CUDA_FLAGS_INIT "-Xcompiler=${own} ${headers}")

set(libraries "--sysroot=${root} -static-libstdc++ -static-libgcc -s")
foreach(folder gcc usr/lib/${triple} lib/${triple})
  string(APPEND libraries " -B${root}/${folder} -L${root}/${folder}")
endforeach()
set(CMAKE_EXE_LINKER_FLAGS_INIT "${libraries}")
set(CMAKE_MODULE_LINKER_FLAGS_INIT "${libraries}")
