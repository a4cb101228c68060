"""`python -m longshore.client.cli`, for where no script is installed."""

from longshore.client.cli import main

main()
