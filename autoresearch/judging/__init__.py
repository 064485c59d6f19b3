"""How results are judged: measurement noise, and the policy that decides on it. All pure."""
