"""
What the two shops share: the page, the orders with their fates, and the broker that may be killed.
"""

from examples.shop.orders import ORDER, TOPIC, Order, Orders
from examples.shop.running import run
from examples.shop.shop import PAGE, NotOurs, Shop, open_shop

__all__ = ["ORDER", "PAGE", "TOPIC", "NotOurs", "Order", "Orders", "Shop", "open_shop", "run"]
