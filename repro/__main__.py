from repro.suite.cli import main

main()
