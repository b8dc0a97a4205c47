"""The whole grid on one machine: embedded Postgres, AWS emulator, the four services and local worker nodes."""
